package token

import (
	"fmt"
	"io"
	"os"
)

// maxFile bounds what is read of a token file: a device or a log named by
// mistake must not fill the memory.
const maxFile = 4 << 10

// ReadFile reads a file that holds one token. Errors name the file and hold
// nothing of its content; a malformed token is an *Error.
func ReadFile(path string) (Token, error) {
	f, err := os.Open(path)
	if err != nil {
		return Token{}, fmt.Errorf("read token: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Token{}, fmt.Errorf("read token: %w", err)
	}
	if info.IsDir() {
		return Token{}, fmt.Errorf("read token: %s is a directory", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return Token{}, fmt.Errorf("read token: %w", err)
	}
	if len(data) > maxFile {
		return Token{}, fmt.Errorf("read token: %s is larger than %d bytes: is it the file of a token?", path, maxFile)
	}
	t, err := Parse(string(data))
	if err != nil {
		return Token{}, fmt.Errorf("token in %s: %w", path, err)
	}
	return t, nil
}
