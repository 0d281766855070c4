// Package doctor makes an archive for whoever helps: what the machine and limpet
// look like, without secrets. Each part stands for itself: one that cannot be
// had (the API server is down, say) leaves a line that says why.
package doctor

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/limpetio/limpet/internal/atomicfile"
)

// Options of Run.
type Options struct {
	// File is the archive to write, as .tar.zst; empty: limpet-doctor-HOST-TIME.tar.zst
	// in the working directory.
	File string
	// LogFile is where limpet's log is, where that is not systemd's journal.
	LogFile string
	DataDir string
	// Config is the effective configuration, Problems what is wrong with it.
	Config   string
	Problems error
	// Kubeconfig is of the administrator; on an agent there is none.
	Kubeconfig string
	// Secrets are values that must not be in the archive, besides what looks secret.
	Secrets []string
	Out     io.Writer
}

// partTimeout bounds how long one part may take.
const partTimeout = 20 * time.Second

// maxPart bounds the size of one part in bytes; of more, the end is kept.
const maxPart = 8 << 20

// part is one file of the archive.
type part struct {
	name string
	get  func(ctx context.Context) (string, error)
}

// Run collects, writes the archive (mode 0600) and prints a short judgement.
func Run(ctx context.Context, o Options) error {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	started := time.Now()
	if o.File == "" {
		o.File = fmt.Sprintf("limpet-doctor-%s-%s.tar.zst", host, started.UTC().Format("20060102-150405"))
	}
	r := NewRedactor(append(o.Secrets, keptSecrets(o.DataDir)...)...)
	c := &collection{opts: o}
	judgement := collect(ctx, part{"judgement.txt", c.judgement})
	archive, err := pack(ctx, append(c.parts(), part{"judgement.txt", func(context.Context) (string, error) { return judgement, nil }}), r, started)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(o.File, archive, 0o600); err != nil {
		return fmt.Errorf("support archive: %w", err)
	}
	fmt.Fprint(o.Out, r.Redact(judgement))
	fmt.Fprintf(o.Out, "\nThe archive for whoever helps is %s (%d KiB). Passwords, tokens and keys were taken out of it; names and addresses are in it.\n", o.File, (len(archive)+1023)/1024)
	return nil
}

// pack collects the parts into a .tar.zst.
func pack(ctx context.Context, parts []part, r *Redactor, now time.Time) ([]byte, error) {
	var buffer strings.Builder
	z, err := zstd.NewWriter(&buffer, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("support archive: %w", err)
	}
	t := tar.NewWriter(z)
	for _, p := range parts {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		text := r.Redact(collect(ctx, p))
		header := &tar.Header{Name: "limpet-doctor/" + p.name, Mode: 0o600, Size: int64(len(text)), ModTime: now, Typeflag: tar.TypeReg}
		err := t.WriteHeader(header)
		if err == nil {
			_, err = io.WriteString(t, text)
		}
		if err != nil {
			return nil, fmt.Errorf("support archive: %w", err)
		}
	}
	if err := errors.Join(t.Close(), z.Close()); err != nil {
		return nil, fmt.Errorf("support archive: %w", err)
	}
	return []byte(buffer.String()), nil
}

// collect gets a part within its time; what went wrong is part of it.
func collect(ctx context.Context, p part) string {
	ctx, cancel := context.WithTimeout(ctx, partTimeout)
	defer cancel()
	type answer struct {
		text string
		err  error
	}
	done := make(chan answer, 1) // so that one that comes too late ends, too
	go func() {
		text, err := p.get(ctx)
		done <- answer{text, err}
	}()
	select {
	case a := <-done:
		if a.err != nil {
			a.text += fmt.Sprintf("\n(not all of this could be collected: %v)\n", a.err)
		}
		return tail(a.text)
	case <-ctx.Done():
		return fmt.Sprintf("(this could not be collected within %v)\n", partTimeout)
	}
}

// tail is the end of a text that is too long, from the beginning of a line.
func tail(text string) string {
	if len(text) <= maxPart {
		return text
	}
	text = text[len(text)-maxPart:]
	_, rest, _ := strings.Cut(text, "\n")
	return "(what was before is left out)\n" + rest
}
