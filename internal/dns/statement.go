package dns

import (
	"fmt"
	"slices"
	"strings"

	"github.com/coredns/caddy/caddyfile"
)

// block is one server block: the zones it serves and its directives.
type block struct {
	keys       []string
	statements map[string][]statement // by directive
}

// statement is one use of a directive: words on its first line and, if braces
// follow, the lines between them (nested braces stay words).
type statement struct {
	args []string
	body [][]string
}

// parseBlocks parses expanded lines with CoreDNS's own parser. file names the
// text in errors, directives are the ones that may occur.
func parseBlocks(file string, lines []line, directives []string) ([]block, error) {
	var text strings.Builder
	for _, l := range lines {
		if err := writeLine(&text, 0, l.words); err != nil {
			return nil, l.errorf("%w", err)
		}
	}
	parsed, err := caddyfile.Parse(file, strings.NewReader(text.String()), directives)
	if err != nil {
		return nil, locate(err, file, lines)
	}
	blocks := make([]block, 0, len(parsed))
	for _, sb := range parsed {
		b := block{keys: sb.Keys, statements: make(map[string][]statement, len(sb.Tokens))}
		for directive, tokens := range sb.Tokens {
			s, err := splitStatements(directive, tokens)
			if err != nil {
				return nil, err
			}
			b.statements[directive] = s
		}
		blocks = append(blocks, b)
	}
	return blocks, nil
}

// locate translates the "file:N" that starts an error of the parser, where N
// counts the lines given, into the place that the user wrote.
func locate(err error, file string, lines []line) error {
	var n int
	rest, ok := strings.CutPrefix(err.Error(), file+":")
	if !ok {
		return err
	}
	if _, scanErr := fmt.Sscanf(rest, "%d", &n); scanErr != nil || n < 1 || n > len(lines) {
		return err
	}
	_, message, _ := strings.Cut(rest, " - ")
	return lines[n-1].errorf("%s", strings.TrimPrefix(message, "Error during parsing: "))
}

// splitStatements separates the uses of one directive, whose tokens the parser
// has joined.
func splitStatements(directive string, tokens []caddyfile.Token) ([]statement, error) {
	var out []statement
	nesting, end := 0, 0
	for i, t := range tokens {
		newLine := i == 0 || t.Line > end
		end = t.Line + strings.Count(t.Text, "\n")
		if nesting == 0 && newLine && t.Text != "{" {
			out = append(out, statement{})
			continue // the directive itself
		}
		s := &out[len(out)-1]
		switch {
		case t.Text == "{":
			nesting++
			if nesting == 1 {
				if s.body != nil {
					return nil, fmt.Errorf("%s: two blocks for one directive", directive)
				}
				s.body = [][]string{}
				continue
			}
		case t.Text == "}":
			nesting--
			if nesting == 0 {
				continue
			}
		case nesting == 0 && s.body != nil:
			return nil, fmt.Errorf("%s: nothing may follow the closing }", directive)
		}
		switch {
		case nesting == 0:
			s.args = append(s.args, t.Text)
		case newLine || len(s.body) == 0:
			s.body = append(s.body, []string{t.Text})
		default:
			last := len(s.body) - 1
			s.body[last] = append(s.body[last], t.Text)
		}
	}
	return out, nil
}

// has tells whether a line of the body starts with one of the words.
func (s *statement) has(words ...string) bool {
	return slices.ContainsFunc(s.body, func(l []string) bool { return slices.Contains(words, l[0]) })
}

// set makes the line the only one in the body that starts with its first word.
func (s *statement) set(words ...string) {
	s.body = slices.DeleteFunc(s.body, func(l []string) bool { return l[0] == words[0] })
	s.body = append([][]string{words}, s.body...)
}

// format writes the blocks as a Corefile, directives in the order given.
func format(blocks []block, directives []string) (string, error) {
	var out strings.Builder
	for _, b := range blocks {
		if err := writeLine(&out, 0, append(slices.Clone(b.keys), "{")); err != nil {
			return "", err
		}
		for _, directive := range directives {
			for _, s := range b.statements[directive] {
				if err := s.format(&out, directive); err != nil {
					return "", fmt.Errorf("%s: %w", directive, err)
				}
			}
		}
		out.WriteString("}\n")
	}
	return out.String(), nil
}

func (s *statement) format(out *strings.Builder, directive string) error {
	head := append([]string{directive}, s.args...)
	if s.body == nil {
		return writeLine(out, 1, head)
	}
	if err := writeLine(out, 1, append(head, "{")); err != nil {
		return err
	}
	for _, words := range s.body {
		if err := writeLine(out, 2, words); err != nil {
			return err
		}
	}
	return writeLine(out, 1, []string{"}"})
}
