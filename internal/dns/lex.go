package dns

import (
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/coredns/caddy/caddyfile"
)

// errEnvironment is returned for {$VAR} and {%VAR%}: limpet's environment may
// hold a join token and is no business of a ConfigMap.
var errEnvironment = errors.New("environment variables are not available to the DNS server")

// line is one line of a Corefile: its words, unquoted, and where it came from.
type line struct {
	file  string
	num   int // 1 is the first
	words []string
}

func (l line) errorf(format string, args ...any) error {
	return fmt.Errorf("%s:%d: %w", l.file, l.num, fmt.Errorf(format, args...))
}

// lex splits a Corefile into its lines, without comments and empty lines.
func lex(file, text string) ([]line, error) {
	d := caddyfile.NewDispenser(file, strings.NewReader(text))
	var lines []line
	end := 0 // line on which the last word ended
	for d.Next() {
		word, num := d.Val(), d.Line()
		if len(lines) == 0 || num > end {
			lines = append(lines, line{file: file, num: num})
		}
		last := &lines[len(lines)-1]
		if strings.Contains(word, "{$") || strings.Contains(word, "{%") {
			return nil, last.errorf("%q: %w", word, errEnvironment)
		}
		last.words = append(last.words, word)
		end = num + strings.Count(word, "\n")
	}
	return lines, nil
}

// writeLine appends the words as one line that lexes to the same words.
func writeLine(b *strings.Builder, indent int, words []string) error {
	b.WriteString(strings.Repeat("    ", indent))
	for i, w := range words {
		if i > 0 {
			b.WriteByte(' ')
		}
		q, err := quote(w)
		if err != nil {
			return err
		}
		b.WriteString(q)
	}
	b.WriteByte('\n')
	return nil
}

// quote writes a word as the lexer reads it. The lexer knows one escape, \"
// inside quotes, so that a backslash before a quote or at the end of a quoted
// word cannot be written.
func quote(word string) (string, error) {
	plain := word != "" && word[0] != '"' && !strings.ContainsFunc(word, func(r rune) bool {
		return unicode.IsSpace(r) || r == '#'
	})
	if plain && !strings.HasPrefix(word, "\ufeff") {
		return word, nil
	}
	if strings.Contains(word, `\"`) || strings.HasSuffix(word, `\`) {
		return "", fmt.Errorf("%q: a backslash before a quotation mark cannot be written in a Corefile", word)
	}
	return `"` + strings.ReplaceAll(word, `"`, `\"`) + `"`, nil
}
