package main

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// rootFiles is what an image needs besides the binary.
func rootFiles() map[string][]byte {
	return map[string][]byte{
		// The kubelet looks for a user of its own, and must be able to find none.
		"etc/passwd": []byte("root:x:0:0:root:/root:/bin/limpet\nnobody:x:65534:65534:nobody:/nonexistent:/bin/limpet\n"),
		"etc/group":  []byte("root:x:0:\nnogroup:x:65534:\n"),
		// containerd copies it for pods on the node's network; docker mounts its own over it.
		"etc/hosts": []byte("127.0.0.1 localhost\n::1 localhost\n"),
		// For registries.
		"etc/ssl/certs/ca-certificates.crt": authorities(),
	}
}

// authorities are those that Mozilla trusts, from the same module for every build. One
// with conditions that a file cannot state is left out.
func authorities() []byte {
	var out bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}) // to memory
		}
	}
	return out.Bytes()
}

// stage puts the root directory of an image together in dir.
func stage(dir, binary string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	for path, mode := range map[string]os.FileMode{
		"bin": 0o755, "etc/ssl/certs": 0o755, "root": 0o700, "run": 0o755, "tmp": 0o777 | os.ModeSticky, "var/lib": 0o755, "var/tmp": 0o777 | os.ModeSticky,
	} {
		if err := os.MkdirAll(filepath.Join(dir, path), 0o755); err != nil {
			return err
		}
		if err := os.Chmod(filepath.Join(dir, path), mode); err != nil { // whatever the umask
			return err
		}
	}
	for path, data := range rootFiles() {
		if err := os.WriteFile(filepath.Join(dir, path), data, 0o644); err != nil {
			return err
		}
		if err := os.Chmod(filepath.Join(dir, path), 0o644); err != nil {
			return err
		}
	}
	for path, target := range map[string]string{
		"bin/kubectl": "limpet", "bin/ctr": "limpet", "sbin": "bin", "var/run": "../run",
	} {
		if err := os.Symlink(target, filepath.Join(dir, path)); err != nil {
			return err
		}
	}
	return copyBinary(filepath.Join(dir, "bin", "limpet"), binary)
}

func copyBinary(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err == nil {
		err = out.Chmod(0o755)
	}
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	return nil
}
