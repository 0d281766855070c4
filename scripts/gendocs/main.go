// Command gendocs writes docs/flags.md from the table of options. Run it from
// the root of the repository:
//
//	go run ./scripts/gendocs
package main

import (
	"fmt"
	"os"

	"github.com/limpetio/limpet/internal/config"
)

func main() {
	if err := os.WriteFile("docs/flags.md", []byte(config.Markdown()), 0o644); err != nil {
		fmt.Fprintln(os.Stderr, "gendocs:", err)
		os.Exit(1)
	}
}
