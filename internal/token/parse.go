package token

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// Part is what of a token is wrong.
type Part string

// The parts of a token.
const (
	PartForm   Part = "form" // neither of the two forms
	PartHash   Part = "hash"
	PartID     Part = "id"
	PartSecret Part = "secret"
)

// Error tells what is wrong with a token. Its text never contains any of it.
type Error struct {
	Part    Part
	Problem string
}

func (e *Error) Error() string { return e.Problem }

const forms = "a token is L10<64 hex digits>::<id>.<secret>, as `limpet token create` prints it, or only <id>.<secret>"

func formErrorf(format string, args ...any) error {
	return &Error{Part: PartForm, Problem: fmt.Sprintf(format, args...) + "; " + forms}
}

// Parse reads a token in its full or short form. White space around it, such as
// the line feed of a file, is no part of it. Errors are of type *Error.
func Parse(text string) (Token, error) {
	text = strings.TrimSpace(text)
	switch {
	case text == "":
		return Token{}, formErrorf("the token is empty")
	case len(text) > maxLen:
		return Token{}, formErrorf("the token is %d characters long", len(text))
	case strings.ContainsAny(text, " \t\r\n"):
		return Token{}, formErrorf("the token has white space or a line break in it")
	case strings.HasPrefix(text, "K10") && strings.Contains(text, separator):
		return Token{}, formErrorf("this is a token of k3s, whose clusters are joined by k3s")
	}
	head, bootstrap, full := strings.Cut(text, separator)
	if !full {
		return parseBootstrap(text)
	}
	hash, err := parseHash(head)
	if err != nil {
		return Token{}, err
	}
	t, err := parseBootstrap(bootstrap)
	if err != nil {
		return Token{}, err
	}
	return t.WithCA(hash), nil
}

func parseHash(head string) (Hash, error) {
	digits, ok := strings.CutPrefix(head, prefix)
	if !ok {
		return Hash{}, formErrorf("the token does not begin with %s", prefix)
	}
	var h Hash
	if len(digits) != hex.EncodedLen(len(h)) {
		return Hash{}, &Error{PartHash, fmt.Sprintf("the hash of the certificate, between %s and %s, has %d characters instead of %d; was the token cut short when it was copied?",
			prefix, separator, len(digits), hex.EncodedLen(len(h)))}
	}
	if _, err := hex.Decode(h[:], []byte(digits)); err != nil {
		return Hash{}, &Error{PartHash, fmt.Sprintf("the hash of the certificate, between %s and %s, has characters that are not hex digits", prefix, separator)}
	}
	return h, nil
}

func parseBootstrap(text string) (Token, error) {
	id, secret, ok := strings.Cut(text, ".")
	if !ok {
		if strings.HasPrefix(text, prefix) && len(text) >= len(prefix)+32 {
			return Token{}, formErrorf("the token ends before its second half")
		}
		return Token{}, formErrorf("the token has neither :: nor a dot in it. Passwords that people choose are guessed too easily to let machines in; `limpet token generate` prints a token that can be set beforehand")
	}
	return New(id, secret)
}

func checkID(id string) error {
	if len(id) == idLen && made(id) {
		return nil
	}
	return &Error{PartID, fmt.Sprintf("the token's id, before the dot, has to be %d characters of a-z and 0-9%s", idLen, found(id, idLen))}
}

func checkSecret(secret string) error {
	if len(secret) == secretLen && made(secret) {
		return nil
	}
	return &Error{PartSecret, fmt.Sprintf("the token's secret, after the dot, has to be %d characters of a-z and 0-9%s", secretLen, found(secret, secretLen))}
}

// found tells the difference without telling the text.
func found(text string, want int) string {
	if len(text) != want {
		return fmt.Sprintf(", but has %d characters", len(text))
	}
	if strings.ToLower(text) != text {
		return ", but has upper-case letters"
	}
	return ", but has other characters"
}
