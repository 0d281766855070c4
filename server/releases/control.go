package releases

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/limpetio/limpet/internal/machine"
	"github.com/limpetio/limpet/internal/release"
)

// Control is what `limpet release` does.
type Control struct {
	Out io.Writer
	// Options are those of the server's store; the running binary is this command's.
	Options Options
}

// Add puts releases into the store. Without an architecture it is that in the name of
// the source.
func (c Control) Add(ctx context.Context, sources []string, arch, publicKey string) error {
	if err := machine.RequireRoot(); err != nil {
		return err
	}
	for _, source := range sources {
		of := arch
		if of == "" {
			of = ArchOf(source)
		}
		if of == "" {
			return fmt.Errorf("%s does not tell by its name which architecture it is for: give it with --arch", source)
		}
		version, err := Add(ctx, source, c.Options.Dir, of, release.Options{PublicKey: publicKey, Logger: c.Options.Logger})
		if err != nil {
			return err
		}
		say := fmt.Sprintf("%s for %s is kept for agents", version, of)
		if version != c.Options.Version {
			say += fmt.Sprintf("; they get it when this server runs it, too (now: %s)", c.Options.Version)
		}
		if _, err := fmt.Fprintln(c.Out, say); err != nil {
			return err
		}
	}
	return nil
}

// List prints what agents can get.
func (c Control) List(context.Context) error {
	served := New(c.Options).Served()
	var have, lack []string
	for _, arch := range Architectures() {
		if served[arch] {
			have = append(have, arch)
		} else {
			lack = append(lack, arch)
		}
	}
	text := fmt.Sprintf("Agents get %s from this server for: %s\n", c.Options.Version, orNone(have))
	if len(lack) > 0 {
		text += fmt.Sprintf("Not for: %s (limpet release add FILE)\n", strings.Join(lack, ", "))
	}
	for _, file := range c.others() {
		text += fmt.Sprintf("Kept for later: %s\n", file)
	}
	_, err := io.WriteString(c.Out, text)
	return err
}

// others are archives of other versions.
func (c Control) others() []string {
	files, _ := filepath.Glob(filepath.Join(c.Options.Dir, "v*", "limpet-*")) // the pattern is right
	var out []string
	for _, file := range files {
		if name := filepath.Base(filepath.Dir(file)); name != c.Options.Version {
			out = append(out, name+string(os.PathSeparator)+filepath.Base(file))
		}
	}
	return out
}

func orNone(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}
