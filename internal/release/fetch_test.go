package release

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// fetchTest is a release server, and what is fetched from it.
type fetchTest struct {
	*testing.T
	dir     string
	options Options
	files   map[string]string // by path, with the leading slash
	url     string
}

func newFetchTest(t *testing.T, key string, files map[string]string) *fetchTest {
	ft := &fetchTest{T: t, dir: t.TempDir(), files: files}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, ok := ft.files[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		http.ServeContent(w, r, r.URL.Path, time.Time{}, strings.NewReader(data))
	}))
	t.Cleanup(server.Close)
	ft.url = server.URL
	ft.options = Options{PublicKey: key, Arch: "arm64", BaseURL: server.URL, Logger: slog.New(slog.DiscardHandler)}
	return ft
}

// good wants the binary of a version in an otherwise empty directory.
func (ft *fetchTest) good(what, source, version string) {
	ft.Helper()
	dir := ft.TempDir()
	got, err := Fetch(ft.Context(), source, dir, ft.options)
	if err != nil {
		ft.Errorf("%s: %v", what, err)
		return
	}
	data, err := os.ReadFile(got.Path)
	if err != nil || string(data) != contents(version)["limpet-arm64"] || got.Version != version {
		ft.Errorf("%s: version %s, %d bytes, %v", what, got.Version, len(data), err)
	}
	info, err := os.Stat(got.Path)
	if err != nil || info.Mode() != 0o755 || filepath.Dir(got.Path) != dir {
		ft.Errorf("%s: %s: %v, %v", what, got.Path, info, err)
	}
	if entries, err := os.ReadDir(dir); len(entries) != 1 || err != nil {
		ft.Errorf("%s: left %v, %v", what, entries, err)
	}
}

// bad wants an error that holds text, and a directory as it was.
func (ft *fetchTest) bad(what, source, text string) {
	ft.Helper()
	got, err := Fetch(ft.Context(), source, ft.dir, ft.options)
	if err == nil || !strings.Contains(err.Error(), text) {
		ft.Errorf("%s: %v, error %v does not contain %q", what, got, err, text)
	}
	if entries, err := os.ReadDir(ft.dir); len(entries) != 0 || err != nil {
		ft.Errorf("%s: left %v, %v", what, entries, err)
	}
}

// at puts files below a path.
func at(prefix string, files map[string]string) map[string]string {
	out := map[string]string{}
	for name, data := range files {
		out[prefix+name] = data
	}
	return out
}

func merged(all ...map[string]string) map[string]string {
	out := map[string]string{}
	for _, m := range all {
		maps.Copy(out, m)
	}
	return out
}

var headFiles = []string{VersionFile, SumsFile, SignatureFile}

func TestFetch(t *testing.T) {
	t.Parallel()
	m := newMaker(t)
	v1, v2 := m.sign(contents("v1.0.0")), m.sign(contents("v2.0.0"))
	ft := newFetchTest(t, m.public, merged(
		at("/v1.0.0/", v1), // without an archive
		map[string]string{"/v2.0.0/limpet-airgap-arm64.tar.zst": archive(t, v2, headFiles...)},
	))
	ft.good("a version with single files", "v1.0.0", "v1.0.0")
	ft.good("a version with an archive", "v2.0.0", "v2.0.0")
	ft.good("URL of a directory", ft.url+"/v1.0.0/", "v1.0.0")
	ft.good("URL of a binary", ft.url+"/v1.0.0/limpet-arm64", "v1.0.0")
	ft.good("URL of an archive", ft.url+"/v2.0.0/limpet-airgap-arm64.tar.zst", "v2.0.0")

	disk := t.TempDir()
	for name, data := range merged(v1, map[string]string{"a.tar.zst": ft.files["/v2.0.0/limpet-airgap-arm64.tar.zst"]}) {
		if err := os.WriteFile(filepath.Join(disk, name), []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	ft.good("directory", disk, "v1.0.0")
	ft.good("binary", disk+"/limpet-arm64", "v1.0.0")
	ft.good("archive", disk+"/a.tar.zst", "v2.0.0")

	ft.bad("no such version", "v3.0.0", "404")
	ft.bad("no such file", disk+"/none", "no such file")
	ft.bad("some other file", disk+"/"+InstallerFile, "this machine needs limpet-arm64")
	ft.options.PublicKey = newMaker(t).public
	ft.bad("another key", "v1.0.0", ErrSignature.Error())
	ft.bad("another key, archive", "v2.0.0", ErrSignature.Error())
	ft.options.PublicKey = ""
	ft.bad("no key", "v1.0.0", ErrNoKey.Error())
}

func TestFetchRefusesWhatIsNotSigned(t *testing.T) {
	t.Parallel()
	m := newMaker(t)
	good := m.sign(contents("v1.0.0"))
	change := func(name, data string) map[string]string {
		out := maps.Clone(good)
		out[name] = data
		return out
	}
	without := contents("v1.0.0")
	delete(without, "limpet-arm64")
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"changed binary":     {change("limpet-arm64", "evil"), ErrChecksum.Error()},
		"truncated binary":   {change("limpet-arm64", good["limpet-arm64"][:9000]), ErrChecksum.Error()},
		"longer binary":      {change("limpet-arm64", good["limpet-arm64"]+"x"), ErrChecksum.Error()},
		"changed sums":       {change(SumsFile, m.sign(contents("v1.0.1"))[SumsFile]), ErrSignature.Error()},
		"changed version":    {change(VersionFile, "v9.9.9\n"), ErrChecksum.Error()},
		"an older release":   {m.sign(contents("v0.9.0")), "not the v1.0.0 that was asked for"},
		"huge sums":          {change(SumsFile, strings.Repeat("x", maxSums+1)), "none of ours"},
		"binary not in sums": {merged(m.sign(without), map[string]string{"limpet-arm64": "evil"}), ErrNotListed.Error()},
	} {
		ft := newFetchTest(t, m.public, at("/v1.0.0/", c.files))
		ft.bad(name, "v1.0.0", c.want)
		ft.files = map[string]string{"/v1.0.0/limpet-airgap-arm64.tar.zst": archive(t, c.files, headFiles...)}
		ft.bad(name+", archive", "v1.0.0", c.want)
	}

	whole := archive(t, good, headFiles...)
	for name, c := range map[string]struct{ data, want string }{
		"truncated archive":      {whole[:len(whole)-20], "unexpected EOF"},
		"binary before its sums": {archive(t, good, "limpet-arm64"), "does not begin with"},
		"no archive":             {"nonsense", "archive"},
		"other architecture":     {archive(t, m.sign(without), headFiles...), "another architecture"},
	} {
		ft := newFetchTest(t, m.public, map[string]string{"/v1.0.0/limpet-airgap-arm64.tar.zst": c.data})
		ft.bad(name, "v1.0.0", c.want)
	}
}

// A line that breaks in the middle is taken up there, by a server with ranges and
// by one without.
func TestFetchGoesOnWhereItBroke(t *testing.T) {
	t.Parallel()
	m := newMaker(t)
	files := m.sign(contents("v1.0.0"))
	for _, ranges := range []bool{true, false} {
		ft := newFetchTest(t, m.public, nil)
		var binaries, skipped atomic.Int32
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			name := strings.TrimPrefix(r.URL.Path, "/v1.0.0/")
			data, ok := files[name]
			if !ok {
				http.NotFound(w, r)
				return
			}
			if r.Header.Get("Range") != "" {
				skipped.Add(1)
			}
			if name == "limpet-arm64" && binaries.Add(1) == 1 {
				w.Header().Set("Content-Length", strconv.Itoa(len(data)))
				_, _ = io.WriteString(w, data[:100_000])
				panic(http.ErrAbortHandler)
			}
			if ranges {
				http.ServeContent(w, r, name, time.Time{}, strings.NewReader(data))
				return
			}
			_, _ = io.WriteString(w, data)
		}))
		server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
		t.Cleanup(server.Close)
		ft.options.BaseURL = server.URL
		var last atomic.Int64
		ft.options.Progress = func(done, _ int64) { last.Store(done) }
		ft.good("broken line", "v1.0.0", "v1.0.0")
		if binaries.Load() != 2 || skipped.Load() != 1 || last.Load() != int64(len(files["limpet-arm64"])) {
			t.Errorf("ranges %v: %d requests, %d for a rest, progress ended at %d", ranges, binaries.Load(), skipped.Load(), last.Load())
		}
	}
}

func TestFetchEndsWithItsContext(t *testing.T) {
	t.Parallel()
	m := newMaker(t)
	ft := newFetchTest(t, m.public, nil)
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(release) })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	ft.options.BaseURL = server.URL
	if _, err := Fetch(ctx, "v1.0.0", ft.dir, ft.options); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

func TestMessagesHideThePassword(t *testing.T) {
	t.Parallel()
	m := newMaker(t)
	ft := newFetchTest(t, m.public, nil)
	source := strings.Replace(ft.url, "http://", "http://user:topsecret@", 1) + "/x/"
	_, err := Fetch(t.Context(), source, ft.dir, ft.options)
	if err == nil || strings.Contains(err.Error(), "topsecret") || !strings.Contains(err.Error(), "user:xxxxx@") {
		t.Errorf("%v", err)
	}
}
