package bundle

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/progress"
)

// Control does what `limpet bundle` does, and tells about it.
type Control struct {
	Out io.Writer
	// Terminal gets a progress bar; nil: nobody does.
	Terminal io.Writer
	// APIVersions are those of this Kubernetes, for the charts of Create.
	APIVersions func() []string
	// Target of Install; its Progress is not used.
	Target Target
}

// Create makes a bundle.
func (c Control) Create(ctx context.Context, r Recipe) error {
	bar := c.bar()
	r.Progress = bar.show
	for i := range r.Charts {
		r.Charts[i].APIVersions = c.APIVersions()
	}
	r.Note = func(text string) { fmt.Fprintln(c.Out, text) }
	index, err := Create(ctx, r)
	bar.clear()
	if err != nil {
		return err
	}
	info, err := os.Stat(r.Output)
	if err != nil {
		return err
	}
	signed := "not signed"
	if r.SigningKey != "" {
		signed = "signed"
	}
	_, err = fmt.Fprintf(c.Out, "%s: %d images for %s, %d manifests, %d bytes, %s\n",
		r.Output, len(index.Images), index.Platform, len(index.Manifests()), info.Size(), signed)
	return err
}

// Verify reads all of a bundle and says whether it can be installed.
func (c Control) Verify(ctx context.Context, file, publicKey string) error {
	return c.verified(ctx, file, publicKey, func(*Bundle) error { return nil })
}

// verified opens and verifies a bundle, says so, and goes on.
func (c Control) verified(ctx context.Context, file, publicKey string, then func(*Bundle) error) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := Open(f, publicKey)
	if err != nil {
		return err
	}
	bar := c.bar()
	err = b.Verify(ctx, func(done, total int64) { bar.show("verifying", done, total) })
	bar.clear()
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	fmt.Fprintf(c.Out, "%s: complete and undamaged, %s\n", file, signature(b, publicKey))
	return then(b)
}

func signature(b *Bundle, publicKey string) string {
	switch {
	case publicKey != "":
		return "and signed with the given key"
	case b.Signed:
		return "but its signature was not checked: --public-key does that"
	default:
		return "but not signed: it may be from anyone"
	}
}

// List prints what is in a bundle, without reading all of it.
func (c Control) List(_ context.Context, file, publicKey string, asJSON bool) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := Open(f, publicKey)
	if err != nil {
		return err
	}
	if asJSON {
		enc := json.NewEncoder(c.Out)
		enc.SetIndent("", "  ")
		return enc.Encode(b.Index)
	}
	fmt.Fprintf(c.Out, "%s for %s, %d bytes\n", b.Index.Name, b.Index.Platform, b.size)
	for _, img := range b.Index.Images {
		fmt.Fprintf(c.Out, "image     %s %s\n", img.Name, img.Digest)
	}
	for _, name := range b.Index.Manifests() {
		fmt.Fprintf(c.Out, "manifest  %s\n", name)
	}
	for _, chart := range b.Index.Charts {
		fmt.Fprintf(c.Out, "chart     %s %s%s: release %s in namespace %s, rendered to %s\n",
			chart.Name, chart.Version, parenthesis(chart.Digest), chart.Release, chart.Namespace, chart.Manifest)
	}
	return nil
}

func parenthesis(digest string) string {
	if digest == "" {
		return ""
	}
	return " (" + digest + ")"
}

// Install verifies a bundle and installs it on this machine.
func (c Control) Install(ctx context.Context, file, publicKey string) error {
	return c.verified(ctx, file, publicKey, func(b *Bundle) error {
		bar, target := c.bar(), c.Target
		target.Progress = bar.show
		result, err := b.Install(ctx, target)
		bar.clear()
		result.print(c.Out)
		return err
	})
}

func (r Result) print(w io.Writer) {
	for _, name := range r.NewImages {
		fmt.Fprintf(w, "image     %s: new\n", name)
	}
	for _, name := range r.SameImages {
		fmt.Fprintf(w, "image     %s: was there\n", name)
	}
	for _, name := range r.NewManifests {
		fmt.Fprintf(w, "manifest  %s: new\n", name)
	}
	for _, name := range r.SameManifests {
		fmt.Fprintf(w, "manifest  %s: was there\n", name)
	}
	for _, name := range r.SkippedManifests {
		fmt.Fprintf(w, "manifest  %s: left out, because this machine is no server\n", name)
	}
	for _, path := range r.StaleManifests {
		fmt.Fprintf(w, "manifest  %s: not in this bundle any more; remove it if its objects shall go\n", path)
	}
	fmt.Fprintf(w, "%d new blobs with %d bytes; %d were there\n", r.NewBlobs, r.NewBytes, r.SameBlobs)
}

// bar is a line on a terminal that is written over.
type bar struct {
	w    io.Writer
	last time.Time
}

func (c Control) bar() *bar { return &bar{w: c.Terminal} }

const barWidth = 30

func (b *bar) show(what string, done, total int64) {
	if b.w == nil || (time.Since(b.last) < 100*time.Millisecond && done < total) {
		return
	}
	b.last = time.Now()
	filled := 0
	if total > 0 {
		filled = int(min(done, total) * barWidth / total)
	}
	fmt.Fprintf(b.w, "\r\x1b[K[%s%s] %v of %v %s", strings.Repeat("=", filled), strings.Repeat(" ", barWidth-filled),
		progress.Bytes(done), progress.Bytes(total), what)
}

func (b *bar) clear() {
	if b.w != nil && !b.last.IsZero() {
		fmt.Fprint(b.w, "\r\x1b[K")
	}
}
