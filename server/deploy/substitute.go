package deploy

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// substitute replaces %{NAME}% by vars[NAME]. A name that vars does not have is
// an error that lists those that it has.
func substitute(data []byte, vars map[string]string) ([]byte, error) {
	var unknown []string
	out := regexp.MustCompile(`%\{([A-Z0-9_]+)\}%`).ReplaceAllFunc(data, func(match []byte) []byte {
		name := string(match[2 : len(match)-2])
		value, ok := vars[name]
		if !ok {
			unknown = append(unknown, name)
		}
		return []byte(value)
	})
	if len(unknown) > 0 {
		return nil, fmt.Errorf("variable %s is not known (there are: %s)",
			strings.Join(slices.Compact(unknown), ", "), strings.Join(slices.Sorted(maps.Keys(vars)), ", "))
	}
	return out, nil
}
