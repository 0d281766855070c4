package registries

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// suggest returns `: did you mean "KEY"?` for the known key that is nearest to
// what was written, or the list of the known ones.
func suggest(written string, known fields) string {
	names := slices.Sorted(maps.Keys(known))
	best, distance := "", len(written)/2+1
	for _, n := range names {
		d := editDistance(strings.ToLower(written), n)
		if strings.HasPrefix(n, written) {
			d = 1 // begun and not finished
		}
		if d < distance {
			best, distance = n, d
		}
	}
	if best != "" {
		return fmt.Sprintf(": did you mean %q?", best)
	}
	return ": it can have " + strings.Join(names, ", ")
}

// editDistance is Levenshtein's, with one row of memory.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
