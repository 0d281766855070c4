package releases

import (
	"errors"
	"io/fs"
	"net/http"
	"strconv"
	"strings"

	"github.com/limpetio/limpet/internal/nodeupgrade"
)

// downloads is how many agents get the release at a time. Others are told to come
// again, as their download does by itself.
const downloads = 8

// Handler serves the archives below nodeupgrade.ServerPath. The API server has found
// out who asks, and whether he may (manifests/rbac.yaml: nodes).
func (s *Store) Handler() http.Handler {
	slots := make(chan struct{}, downloads)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		arch := ArchOf(strings.TrimPrefix(r.URL.Path, nodeupgrade.ServerPath))
		if arch == "" || strings.Contains(strings.TrimPrefix(r.URL.Path, nodeupgrade.ServerPath), "/") {
			http.NotFound(w, r)
			return
		}
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		default:
			w.Header().Set("Retry-After", "10")
			http.Error(w, "enough nodes get the release at the moment", http.StatusTooManyRequests)
			return
		}
		s.serve(w, r, arch)
	})
}

func (s *Store) serve(w http.ResponseWriter, r *http.Request, arch string) {
	f, err := s.Open(arch)
	if errors.Is(err, fs.ErrNotExist) {
		http.Error(w, "this server has no signed release of itself for "+arch, http.StatusNotFound)
		return
	}
	if err != nil {
		s.opts.Logger.Warn("the release cannot be given to a node", "arch", arch, "error", err)
		http.Error(w, "this server cannot give out its release; its log says why", http.StatusServiceUnavailable)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		http.Error(w, "this server cannot give out its release", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/zstd")
	// What was begun with one file must not go on with another.
	w.Header().Set("ETag", etag(info))
	http.ServeContent(w, r, "", info.ModTime(), f)
}

func hex(n int64) string { return strconv.FormatInt(n, 16) }

func etag(info fs.FileInfo) string {
	return `"` + hex(info.Size()) + "-" + hex(info.ModTime().UnixNano()) + `"`
}
