package releases

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"aead.dev/minisign"

	"github.com/limpetio/limpet/internal/nodeupgrade"
	"github.com/limpetio/limpet/internal/release"
)

const version = "v1.2.3"

// shop is a signed release on disk and a server that runs it.
type shop struct {
	*testing.T
	key     minisign.PrivateKey
	options Options
	release string // directory
}

func newShop(t *testing.T) *shop {
	public, private, err := minisign.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s := &shop{T: t, key: private, release: filepath.Join(dir, "release"), options: Options{
		Dir: filepath.Join(dir, "store"), ProofDir: filepath.Join(dir, "proof"), Executable: filepath.Join(dir, "limpet"),
		Version: version, Arch: "amd64", PublicKey: public.String(), Logger: slog.New(slog.DiscardHandler),
	}}
	s.publish(s.release, version)
	s.write(s.options.Executable, s.read(filepath.Join(s.release, "limpet-amd64")))
	return s
}

func (s *shop) write(file string, data []byte) {
	s.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, data, 0o644)); err != nil {
		s.Fatal(err)
	}
}

func (s *shop) read(file string) []byte {
	s.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		s.Fatal(err)
	}
	return data
}

// publish makes a signed release for amd64 and arm64 in dir.
func (s *shop) publish(dir, version string) {
	s.Helper()
	sums := ""
	for name, data := range map[string]string{
		"version": version + "\n", "limpet-amd64": strings.Repeat("amd64 "+version, 5000), "limpet-arm64": strings.Repeat("arm64 "+version, 5000),
	} {
		s.write(filepath.Join(dir, name), []byte(data))
		sums += fmt.Sprintf("%x  %s\n", sha256.Sum256([]byte(data)), name)
	}
	s.write(filepath.Join(dir, "sha256sums"), []byte(sums))
	s.write(filepath.Join(dir, "sha256sums.minisig"), minisign.Sign(s.key, []byte(sums)))
}

// prove leaves of a release what install.sh does.
func (s *shop) prove(dir string) {
	for _, name := range []string{"version", "sha256sums", "sha256sums.minisig"} {
		s.write(filepath.Join(s.options.ProofDir, name), s.read(filepath.Join(dir, name)))
	}
}

func (s *shop) served(store *Store, want ...string) {
	s.Helper()
	var got []string
	for arch := range store.Served() {
		got = append(got, arch)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		s.Errorf("served: %v, want %v", got, want)
	}
}

// get fetches as an agent does.
func (s *shop) get(store *Store, arch string) (release.Fetched, error) {
	server := httptest.NewServer(store.Handler())
	defer server.Close()
	return release.Fetch(s.Context(), server.URL+nodeupgrade.ServerPath+release.ArchiveFile(arch), s.TempDir(), release.Options{
		PublicKey: s.options.PublicKey, Arch: arch, Logger: s.options.Logger,
	})
}

func TestOwnRelease(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	store := New(s.options)
	s.served(store)
	if _, err := store.Open("amd64"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	s.prove(s.release) // an installer comes later
	s.served(store, "amd64")
	for range 2 { // made, and there already
		got, err := s.get(store, "amd64")
		if err != nil {
			t.Fatal(err)
		}
		if got.Version != version || !bytes.Equal(s.read(got.Path), s.read(s.options.Executable)) {
			t.Errorf("%+v", got)
		}
	}
	if _, err := s.get(store, "arm64"); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("%v", err)
	}
	entries, err := os.ReadDir(filepath.Join(s.options.Dir, version))
	if err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
}

func TestWhatIsNotGivenOut(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*shop){
		"another binary runs": func(s *shop) { s.write(s.options.Executable, []byte("x")) },
		"the proof of another": func(s *shop) {
			s.publish(s.release, "v1.2.4")
			s.prove(s.release)
		},
		"another key":           func(s *shop) { s.options.PublicKey = newShop(s.T).options.PublicKey },
		"no key":                func(s *shop) { s.options.PublicKey = "" },
		"changed sums":          func(s *shop) { s.write(filepath.Join(s.options.ProofDir, "sha256sums"), []byte("x")) },
		"changed version":       func(s *shop) { s.write(filepath.Join(s.options.ProofDir, "version"), []byte("v9.9.9\n")) },
		"huge sums":             func(s *shop) { s.write(filepath.Join(s.options.ProofDir, "sha256sums"), make([]byte, maxSmall+1)) },
		"no sums":               func(s *shop) { _ = os.Remove(filepath.Join(s.options.ProofDir, "sha256sums")) },
		"an archive of nothing": func(s *shop) { s.prove(s.TempDir()) },
	} {
		s := newShop(t)
		if name == "an archive of nothing" {
			s.write(filepath.Join(s.options.Dir, version, release.ArchiveFile("amd64")), []byte("x"))
		} else {
			s.prove(s.release)
			spoil(s)
		}
		store := New(s.options)
		s.served(store)
		if f, err := store.Open("amd64"); err == nil {
			t.Errorf("%s: %s", name, f.Name())
		}
	}
}

func TestAdd(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	o := release.Options{PublicKey: s.options.PublicKey, Logger: s.options.Logger}
	got, err := Add(t.Context(), s.release+"/limpet-arm64", s.options.Dir, ArchOf(s.release+"/limpet-arm64"), o)
	if err != nil || got != version {
		t.Fatalf("%s, %v", got, err)
	}
	store := New(s.options)
	s.served(store, "arm64")
	if _, err := s.get(store, "arm64"); err != nil {
		t.Error(err)
	}
	// What it gives out can be added elsewhere.
	f, err := store.Open("arm64")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := Add(t.Context(), f.Name(), t.TempDir(), "arm64", o); err != nil {
		t.Error(err)
	}
	if _, err := Add(t.Context(), s.release+"/limpet-arm64", s.options.Dir, "arm64", release.Options{PublicKey: newShop(t).options.PublicKey}); !errors.Is(err, release.ErrSignature) {
		t.Errorf("%v", err)
	}
	entries, err := os.ReadDir(s.options.Dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestPrune(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	store := New(s.options)
	if err := store.Prune(); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"v1.2.2", "v1.2.3", "v1.3.0", "other"} {
		s.write(filepath.Join(s.options.Dir, name, "x"), nil)
	}
	if err := store.Prune(); err != nil {
		t.Error(err)
	}
	entries, err := os.ReadDir(s.options.Dir)
	if err != nil || len(entries) != 3 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestHandler(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.prove(s.release)
	server := httptest.NewServer(New(s.options).Handler())
	t.Cleanup(server.Close)
	get := func(name, ranges string) *http.Response {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+nodeupgrade.ServerPath+name, nil)
		if err != nil {
			t.Fatal(err)
		}
		if ranges != "" {
			req.Header.Set("Range", ranges)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp
	}
	whole := get("limpet-airgap-amd64.tar.zst", "")
	part := get("limpet-airgap-amd64.tar.zst", "bytes=10-")
	if whole.StatusCode != http.StatusOK || part.StatusCode != http.StatusPartialContent || part.ContentLength != whole.ContentLength-10 {
		t.Errorf("%s of %d bytes, %s of %d", whole.Status, whole.ContentLength, part.Status, part.ContentLength)
	}
	if tag := whole.Header.Get("ETag"); tag == "" || tag != part.Header.Get("ETag") {
		t.Errorf("%q, %q", tag, part.Header.Get("ETag"))
	}
	for _, name := range []string{"", "limpet-airgap-arm64.tar.zst", "limpet-airgap-riscv64.tar.zst", "x/limpet-airgap-amd64.tar.zst", "sha256sums"} {
		if resp := get(name, ""); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%q: %s", name, resp.Status)
		}
	}
}

// slowWriter holds a download up, but no error.
type slowWriter struct {
	*httptest.ResponseRecorder
	wait <-chan struct{}
}

func (w slowWriter) Write(p []byte) (int, error) {
	if w.Code == http.StatusOK {
		<-w.wait
	}
	return w.ResponseRecorder.Write(p)
}

func TestDownloadsAreLimited(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.prove(s.release)
	handler, release := New(s.options).Handler(), make(chan struct{})
	ask := func() chan int {
		code := make(chan int, 1)
		go func() {
			w := httptest.NewRecorder()
			handler.ServeHTTP(slowWriter{w, release}, httptest.NewRequest(http.MethodGet, nodeupgrade.ServerPath+"limpet-airgap-amd64.tar.zst", nil))
			code <- w.Code
		}()
		return code
	}
	var all []chan int
	for range downloads + 1 {
		all = append(all, ask())
	}
	turnedAway := 0
	for deadline := time.After(20 * time.Second); turnedAway == 0; {
		for _, c := range all {
			select {
			case code := <-c:
				if code != http.StatusTooManyRequests {
					t.Fatalf("status %d", code)
				}
				turnedAway++
			case <-deadline:
				t.Fatal("nobody is turned away")
			default:
			}
		}
		time.Sleep(time.Millisecond)
	}
	close(release)
}
