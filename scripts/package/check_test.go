package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/limpetio/limpet/internal/release"
)

// TestMain lets this test's own executable stand for the binary of a release.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "--version" {
		fmt.Printf("limpet v1.2.3 (0123456789ab)\n%s linux/%s\n", runtime.Version(), runtime.GOARCH)
		return
	}
	os.Exit(m.Run())
}

// payloadBuilder is testBuilder with the payload in the binary.
func payloadBuilder(t *testing.T) *builder {
	t.Helper()
	b := testBuilder(t)
	program, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	if own, _ := targetOf(runtime.GOARCH); checkELF(program, own.machine, true) != nil {
		t.Skip("this test was not built with CGO_ENABLED=0, as limpet is")
	}
	payload, err := os.ReadFile("../../internal/payload/payload_linux_" + runtime.GOARCH + ".tar.zst")
	if err != nil {
		t.Fatalf("%v; build it with: make payload", err)
	}
	file := filepath.Join(t.TempDir(), "limpet")
	if err := os.WriteFile(file, append(program, payload...), 0o755); err != nil {
		t.Fatal(err)
	}
	b.binaries[0].path = file
	b.out = t.TempDir()
	return b
}

func TestCheck(t *testing.T) {
	t.Parallel()
	binary := release.BinaryFile(runtime.GOARCH)
	tests := map[string]struct {
		before func(*builder) // changes what is packed
		after  func(t *testing.T, dir string)
		want   string // "": the release is good
	}{
		"good": {want: ""},
		"a changed file": {want: "the checksum is not the signed one", after: func(t *testing.T, dir string) {
			appendTo(t, filepath.Join(dir, "install.sh"), "#")
		}},
		"changed checksums": {want: "signature", after: func(t *testing.T, dir string) {
			appendTo(t, filepath.Join(dir, release.SumsFile), strings.Repeat("0", 64)+"  more\n")
		}},
		"a file too many": {want: "the checksum is not the signed one", after: func(t *testing.T, dir string) {
			appendTo(t, filepath.Join(dir, "limpet-riscv64"), "more")
		}},
		"a file too few": {want: "lists 5 files, and there are 4", after: func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, binary+".spdx.json")); err != nil {
				t.Fatal(err)
			}
		}},
		"another version": {want: "it says that it is", before: func(b *builder) { b.version = "v1.2.4" }},
		"no payload":      {want: "the payload of this source tree is not in the binary", before: func(b *builder) { b.binaries[0].path = os.Args[0] }},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := payloadBuilder(t)
			if tt.before != nil {
				tt.before(b)
			}
			if err := b.build(t.Context()); err != nil {
				t.Fatal(err)
			}
			if tt.after != nil {
				tt.after(t, b.out)
			}
			c := checker{dir: b.out, root: b.root, key: publicKey(b.key), log: io.Discard}
			err := c.check(t.Context())
			if (tt.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}

func appendTo(t *testing.T, file, text string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func TestCheckELF(t *testing.T) {
	t.Parallel()
	program, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	own, err := targetOf(runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := targetOf(map[string]string{"amd64": "arm64"}[runtime.GOARCH])
	if err != nil {
		foreign, _ = targetOf("amd64")
	}
	shell, err := os.ReadFile("/bin/bash") // which has a dynamic linker
	if err != nil {
		t.Skip(err)
	}
	if err := checkELF(shell, own.machine, false); err != nil {
		t.Error(err)
	}
	for what, err := range map[string]error{
		"another architecture": checkELF(program, foreign.machine, true),
		"a dynamic one":        checkELF(shell, own.machine, true),
		"no executable":        checkELF(bytes.Repeat([]byte("#!/bin/sh\n"), 100), own.machine, true),
	} {
		if err == nil {
			t.Errorf("%s is accepted", what)
		}
	}
}
