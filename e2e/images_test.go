package e2e

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/zstd"
	corev1 "k8s.io/api/core/v1"
)

const imagesDir = dataDir + "/agent/images"

// lateImage is an archive of an image that no node has.
func lateImage(t *testing.T, ref string) []byte {
	t.Helper()
	file := filepath.Join(env.images, "httpd-1.tar")
	img, err := tarball.ImageFromPath(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg = cfg.DeepCopy()
	cfg.Config.Env = append(cfg.Config.Env, "HTTPD_VERSION="+ref)
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := tarball.Write(tag, img, &out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func compressed(t *testing.T, data []byte, writer func(io.Writer) (io.WriteCloser, error)) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := writer(&out)
	if err == nil {
		_, err = w.Write(data)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func gzipped(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil }
func zstdPacked(w io.Writer) (io.WriteCloser, error) {
	return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest))
}
func plain(w io.Writer) (io.WriteCloser, error) { return nopCloser{w}, nil }

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// TestImageArchives lets pods fail for want of an image that no registry has,
// then drops its archive into the running node.
func TestImageArchives(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		suffix string
		pack   func(io.Writer) (io.WriteCloser, error)
		policy corev1.PullPolicy
		failed string
	}{
		{"tar", plain, corev1.PullIfNotPresent, "ImagePullBackOff"},
		{"tar.gz", gzipped, corev1.PullIfNotPresent, "ImagePullBackOff"},
		{"tar.zst", zstdPacked, corev1.PullNever, "ErrImageNeverPull"},
	} {
		t.Run(c.suffix, func(t *testing.T) {
			s := sharedSpace(t, 3*time.Minute)
			// A registry on the LAN that refuses: the pull fails at once, as on an air-gapped box.
			ref := fmt.Sprintf("10.99.0.1:5999/test/late-%s:1", strings.ReplaceAll(c.suffix, ".", "-"))
			data := compressed(t, lateImage(t, ref), c.pack)
			spec := httpdSpec()
			spec.Containers[0].Image, spec.Containers[0].ImagePullPolicy = ref, c.policy
			s.create(pod("web", spec))
			await(s.ctx, t, s.pods(), "web", func(p *corev1.Pod) string {
				for _, cs := range p.Status.ContainerStatuses {
					if cs.State.Waiting != nil && cs.State.Waiting.Reason == c.failed {
						return ""
					}
				}
				return describe(p)
			})
			file := filepath.Join(imagesDir, "late-"+c.suffix+"."+c.suffix)
			t.Cleanup(func() { s.remove(t, node1, file) })
			start := time.Now()
			writeSlowly(t, s, file, data)
			p := await(s.ctx, t, s.pods(), "web", podReady)
			took := time.Since(start)
			t.Logf("the pod ran %s after its image was written", took.Round(time.Millisecond))
			if took > 8*time.Second { // by itself the kubelet looks again after 10 to 20 s
				t.Errorf("the pod ran only %s after its image was written", took)
			}
			if got := podPlace(t, p).mustFetch(s.ctx, t, p.Status.PodIP+":"+httpPortText, "/version"); got != ref {
				t.Errorf("it answers %q, want the new image's %q", got, ref)
			}
			if f, ok := statusOf(s.status(s.ctx, t).Images, filepath.Base(file)); !ok || f.Error != "" {
				t.Errorf("limpet status says %+v", f)
			}
		})
	}
}

// writeSlowly writes in place and pauses in the middle, as cp and scp over a slow line do.
func writeSlowly(t *testing.T, s *space, file string, data []byte) {
	t.Helper()
	f, err := os.Create(s.path(t, node1, file))
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Write(data[:len(data)/2])
	if err == nil {
		time.Sleep(700 * time.Millisecond) // the pause is the test
		_, err = f.Write(data[len(data)/2:])
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestBrokenImageArchive is reported and does not disturb the next one.
func TestBrokenImageArchive(t *testing.T) {
	s := sharedSpace(t, 2*time.Minute)
	good := lateImage(t, "limpet.io/test/after-broken:1")
	broken := map[string][]byte{
		"broken-truncated.tar.gz": compressed(t, good, gzipped)[:len(good)/8],
		"broken-noise.tar":        []byte("this is no archive"),
	}
	for file, data := range broken {
		t.Cleanup(func() { s.remove(t, node1, filepath.Join(imagesDir, file)) })
		s.drop(t, node1, filepath.Join(imagesDir, file), data)
	}
	after := filepath.Join(imagesDir, "after-broken.tar")
	t.Cleanup(func() { s.remove(t, node1, after) })
	s.drop(t, node1, after, good)
	for file := range broken {
		eventually(s.ctx, t, "limpet status tells of "+file, func() error {
			if f, ok := statusOf(s.status(s.ctx, t).Images, file); !ok || f.Error == "" {
				return fmt.Errorf("it says %+v", f)
			}
			return nil
		})
	}
	eventually(s.ctx, t, "the image after the broken ones", func() error {
		if out := s.mustIn(s.ctx, t, node1, "limpet", "ctr", "-n", "k8s.io", "images", "ls", "-q"); !strings.Contains(out, "limpet.io/test/after-broken:1") {
			return fmt.Errorf("images: %s", out)
		}
		return nil
	})
}
