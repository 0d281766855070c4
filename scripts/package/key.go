package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"aead.dev/minisign"

	"github.com/limpetio/limpet/internal/atomicfile"
)

// loadKey reads a secret key as `minisign -G -W` makes it. When there is no such
// file it makes one, 0600, with the public key beside it in FILE.pub.
func loadKey(file string) (key minisign.PrivateKey, made bool, err error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		key, err = makeKey(file)
		return key, true, err
	}
	if err != nil {
		return key, false, err
	}
	if err := key.UnmarshalText(data); err != nil {
		return key, false, fmt.Errorf("signing key %s: %w (it must be a minisign key without a password: minisign -G -W)", file, err)
	}
	return key, false, nil
}

func makeKey(file string) (minisign.PrivateKey, error) {
	public, private, err := minisign.GenerateKey(rand.Reader)
	if err != nil {
		return private, err
	}
	secret, err := private.MarshalText()
	if err != nil {
		return private, err
	}
	text, err := public.MarshalText()
	if err != nil {
		return private, err
	}
	return private, errors.Join(
		os.MkdirAll(filepath.Dir(file), 0o700),
		atomicfile.Write(file, append(secret, '\n'), 0o600),
		atomicfile.Write(file+".pub", append(text, '\n'), 0o644),
	)
}

func publicKey(key minisign.PrivateKey) string {
	return key.Public().(minisign.PublicKey).String()
}
