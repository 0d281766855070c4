package helmchart

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"helm.sh/helm/v4/pkg/chart/loader/archive"
	"helm.sh/helm/v4/pkg/ignore"
)

// Limits of what is read, in bytes and levels.
const (
	maxArchive = 20 << 20 // of a packaged chart
	maxChart   = 64 << 20 // of a chart unpacked, with all charts that are packed in it
	maxNested  = 8        // charts in charts
	maxFiles   = 20000
)

// Load reads a chart from a directory or a packaged chart (.tgz).
func Load(path string) (*Chart, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return loadDir(path)
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is neither a directory nor a regular file")
	}
	if info.Size() > maxArchive {
		return nil, fmt.Errorf("%w: it has %d bytes; %d are allowed", errTooLarge, info.Size(), maxArchive)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return unpack(data)
}

// unpack reads a packaged chart.
func unpack(data []byte) (*Chart, error) {
	if !bytes.HasPrefix(data, []byte{0x1f, 0x8b}) {
		return nil, errors.New("not a chart: neither a directory nor a packaged chart (.tgz)")
	}
	s := scale{left: maxChart, files: maxFiles}
	if err := s.weigh(data, 0); err != nil {
		return nil, err
	}
	// This refuses paths that lead out of the chart.
	files, err := archive.LoadArchiveFiles(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("not a chart: %w", err)
	}
	sum := sha256.Sum256(data)
	return &Chart{files: files, digest: "sha256:" + hex.EncodeToString(sum[:])}, nil
}

// scale sees how large an archive is without keeping it. Helm's limit is for each
// archive alone, and there may be many in one.
type scale struct {
	left  int64 // bytes
	files int
}

// weighed takes what is read through it off a scale.
type weighed struct {
	io.Reader
	*scale
}

func (w weighed) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	if w.left -= int64(n); w.left < 0 {
		return 0, fmt.Errorf("%w: unpacked, it has more than %d bytes", errTooLarge, maxChart)
	}
	return n, err
}

func (s *scale) weigh(data []byte, depth int) error {
	if depth > maxNested {
		return fmt.Errorf("%w: charts are packed in each other more than %d levels deep", errTooLarge, maxNested)
	}
	unzipped, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("not a chart: %w", err)
	}
	r := tar.NewReader(weighed{unzipped, s})
	for {
		header, err := r.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, errTooLarge):
			return err
		case err != nil:
			return fmt.Errorf("not a chart: %w", err)
		}
		if err := s.entry(r, header, depth); err != nil {
			return err
		}
	}
}

func (s *scale) entry(r io.Reader, header *tar.Header, depth int) error {
	if s.files--; s.files < 0 {
		return fmt.Errorf("%w: it has more than %d files", errTooLarge, maxFiles)
	}
	switch header.Typeflag {
	case tar.TypeReg, tar.TypeDir, tar.TypeXGlobalHeader:
	default:
		return fmt.Errorf("not a chart: %q in it is not a regular file", header.Name)
	}
	if !packedChart(header.Name) {
		return nil
	}
	inner, err := io.ReadAll(r)
	if err == nil {
		err = s.weigh(inner, depth+1)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", header.Name, err)
	}
	return nil
}

// packedChart tells the files that Helm unpacks as a dependency.
func packedChart(name string) bool {
	dir := filepath.Base(filepath.Dir(filepath.ToSlash(strings.ReplaceAll(name, `\`, "/"))))
	return dir == "charts" && strings.HasSuffix(name, ".tgz")
}

// loadDir reads a directory as Helm does, without what .helmignore names. Links may
// lead to other files of the chart, but not out of it: who renders a chart of someone
// else's does not want files of this machine in the result.
func loadDir(dir string) (*Chart, error) {
	top, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	w := walker{top: top, rules: ignore.Empty(), scale: scale{left: maxChart, files: maxFiles}}
	if f, err := os.Open(filepath.Join(top, ignore.HelmIgnore)); err == nil {
		w.rules, err = ignore.Parse(f)
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("%s: %w", ignore.HelmIgnore, err)
		}
	}
	w.rules.AddDefaults()
	if err := filepath.WalkDir(top, w.visit); err != nil {
		return nil, err
	}
	return &Chart{files: w.files}, nil
}

type walker struct {
	top   string
	rules *ignore.Rules
	scale scale
	files []*archive.BufferedFile
}

func (w *walker) visit(path string, d fs.DirEntry, err error) error {
	if err != nil || path == w.top {
		return err
	}
	name, err := filepath.Rel(w.top, path)
	if err != nil {
		return err
	}
	info, err := os.Stat(path) // of what a link leads to
	if err != nil {
		return err
	}
	if w.rules.Ignore(filepath.ToSlash(name), info) {
		if d.IsDir() {
			return filepath.SkipDir
		}
		return nil
	}
	if d.IsDir() {
		return nil
	}
	if d.Type()&fs.ModeSymlink != 0 {
		if err := w.inside(path); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file: package the chart with helm package, and take that", name)
	}
	return w.add(path, filepath.ToSlash(name), info.Size())
}

func (w *walker) inside(link string) error {
	target, err := filepath.EvalSymlinks(link)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(target, w.top+string(filepath.Separator)) {
		return errors.New("a link that leads out of the chart: package the chart with helm package, and take that")
	}
	return nil
}

func (w *walker) add(path, name string, size int64) error {
	w.scale.files--
	if w.scale.left -= size; w.scale.left < 0 || w.scale.files < 0 {
		return fmt.Errorf("%w: %d bytes in %d files are allowed", errTooLarge, maxChart, maxFiles)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if packedChart(name) {
		if err := w.scale.weigh(data, 1); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	w.files = append(w.files, &archive.BufferedFile{Name: name, Data: bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))})
	return nil
}
