package config

import "fmt"

// Suggest returns the candidate that word was probably meant to be, or "" when
// none is near: at most one edit for every five letters, one in a shorter word.
// Of equally near candidates the first wins.
func Suggest(word string, candidates []string) string {
	limit := max(len(word)/5, 1)
	best, bestDistance := "", limit+1
	for _, c := range candidates {
		if d := distance(word, c); d < bestDistance && d < len(c) {
			best, bestDistance = c, d
		}
	}
	return best
}

// didYouMean is the sentence that follows an unknown word; "" when nothing is near.
func didYouMean(suggestion string) string {
	if suggestion == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %s?", suggestion)
}

// distance is the optimal string alignment distance of a and b: the number of
// inserted, deleted, replaced and swapped neighbouring bytes that turn a into b.
// (Damerau 1964; Wagner and Fischer 1974.) Option names are ASCII.
func distance(a, b string) int {
	// rows[i%3] is row i of the matrix; a swap looks two rows back.
	var rows [3][]int
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		row, last, beforeLast := rows[i%3], rows[(i+2)%3], rows[(i+1)%3]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			replace := last[j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			row[j] = min(replace, last[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], beforeLast[j-2]+1)
			}
		}
	}
	return rows[len(a)%3][len(b)]
}
