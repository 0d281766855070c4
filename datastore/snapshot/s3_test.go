package snapshot

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/minio/minio-go/v7"

	"github.com/limpetio/limpet/datastore/sqlog"
)

const (
	accessKey = "AKIAEXAMPLE"
	secretKey = "not/so+secret"
	session   = "session-token"
)

// signed lets requests through that are signed (AWS signature version 4) with
// the key, as S3 does and gofakes3 does not.
func signed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		auth := r.Header.Get("Authorization")
		var scope, names, signature string
		for _, part := range strings.Split(strings.TrimPrefix(auth, "AWS4-HMAC-SHA256 "), ",") {
			k, v, _ := strings.Cut(strings.TrimSpace(part), "=")
			switch k {
			case "Credential":
				scope = strings.TrimPrefix(v, accessKey+"/")
			case "SignedHeaders":
				names = v
			case "Signature":
				signature = v
			}
		}
		var headers strings.Builder
		for _, n := range strings.Split(names, ";") {
			v := r.Header.Get(n)
			switch n {
			case "host":
				v = r.Host
			case "content-length":
				v = fmt.Sprint(r.ContentLength)
			}
			fmt.Fprintf(&headers, "%s:%s\n", n, strings.TrimSpace(v))
		}
		query := strings.ReplaceAll(r.URL.Query().Encode(), "+", "%20")
		request := strings.Join([]string{r.Method, r.URL.EscapedPath(), query, headers.String(), names, r.Header.Get("X-Amz-Content-Sha256")}, "\n")
		text := fmt.Sprintf("AWS4-HMAC-SHA256\n%s\n%s\n%x", r.Header.Get("X-Amz-Date"), scope, sha256.Sum256([]byte(request)))
		key := []byte("AWS4" + secretKey)
		for _, s := range append(strings.Split(scope, "/"), text) {
			mac := hmac.New(sha256.New, key)
			mac.Write([]byte(s))
			key = mac.Sum(nil)
		}
		if fmt.Sprintf("%x", key) != signature || !strings.Contains(names, "host") || r.Header.Get("X-Amz-Security-Token") != session {
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, "<Error><Code>SignatureDoesNotMatch</Code><Message>The signature does not match.</Message></Error>")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// s3Server is a server with the bucket "backups".
func s3Server(t *testing.T) (*httptest.Server, S3Config) {
	t.Helper()
	backend := s3mem.New()
	if err := backend.CreateBucket("backups"); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(signed(gofakes3.New(backend).Server()))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0) // of clients that refuse its certificate
	srv.StartTLS()
	t.Cleanup(srv.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	return srv, S3Config{
		Endpoint: strings.TrimPrefix(srv.URL, "https://"), EndpointCA: string(ca), AccessKey: accessKey, SecretKey: secretKey, SessionToken: session,
		Bucket: "backups", Folder: "cluster 1/edge", BucketLookup: "path", Timeout: 20 * time.Second,
	}
}

func mustBucket(t *testing.T, c S3Config) *Bucket {
	t.Helper()
	b, err := OpenBucket(c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mustUpload(t *testing.T, b *Bucket, i Info) {
	t.Helper()
	if err := b.Upload(t.Context(), i.Path); err != nil {
		t.Fatal(err)
	}
}

func TestBucket(t *testing.T) {
	t.Parallel()
	_, config := s3Server(t)
	b, dir, log := mustBucket(t, config), t.TempDir(), newLog(t, 30)
	if list, err := b.List(t.Context()); err != nil || len(list) > 0 {
		t.Fatal(list, err)
	}
	var saved []Info
	for i := range 4 {
		log.put(t, 30+i, 31+i)
		saved = append(saved, mustSave(t, log, dir, SaveOptions{Reason: Scheduled, Now: at(i)}))
		mustUpload(t, b, saved[i])
	}
	elsewhere := config
	elsewhere.Folder = "cluster 1"
	mustUpload(t, mustBucket(t, elsewhere), saved[0])

	list, err := b.List(t.Context())
	if err != nil || len(list) != 4 {
		t.Fatal(list, err)
	}
	want := saved[3]
	want.Path = ""
	if list[0] != want {
		t.Errorf("newest %+v, want %+v", list[0], want)
	}
	deleted, err := b.Prune(t.Context(), Ring{Node: "edge-1", Reason: Scheduled, Keep: 3})
	if err != nil || !slices.Equal(deleted, []string{saved[0].Name}) {
		t.Errorf("deleted %q, %v", deleted, err)
	}
	if err := b.Delete(t.Context(), saved[1].Name); err != nil {
		t.Error(err)
	}
	if list, err := b.List(t.Context()); err != nil || len(list) != 2 {
		t.Error(list, err)
	}
	if list, err := mustBucket(t, elsewhere).List(t.Context()); err != nil || len(list) != 1 {
		t.Error("the other folder:", list, err)
	}

	to := filepath.Join(t.TempDir(), "new")
	path, err := b.Download(t.Context(), saved[3].Name, to)
	if err != nil {
		t.Fatal(err)
	}
	assertOnly(t, to, saved[3].Name)
	if info, err := Verify(t.Context(), path, ""); err != nil || info.Manifest != saved[3].Manifest {
		t.Error(info, err)
	}
	_, err = b.Download(t.Context(), saved[3].Name, to)
	assertError(t, err, fs.ErrExist, path)
	if r, err := Restore(t.Context(), path, filepath.Join(t.TempDir(), "state.db"), RestoreOptions{}); err != nil || r.Snapshot.Keys != 34 {
		t.Error(r, err)
	}
}

// A large one goes in parts.
func TestBucketTakesParts(t *testing.T) {
	t.Parallel()
	_, config := s3Server(t)
	b, dir, log := mustBucket(t, config), t.TempDir(), newLog(t, 0)
	noise := make([]byte, 18<<20)
	seed := sha256.Sum256([]byte("seed"))
	for at := 0; at < len(noise); at += len(seed) {
		copy(noise[at:], seed[:])
		seed = sha256.Sum256(seed[:])
	}
	err := log.Commit(t.Context(), sqlog.Batch{Records: []sqlog.Record{{ID: sqlog.ID(1, 0), Key: "/noise", CreateRevision: 1, Version: 1, Value: noise}}})
	if err != nil {
		t.Fatal(err)
	}
	info := mustSave(t, log, dir, SaveOptions{})
	if info.Bytes < 17<<20 {
		t.Fatalf("only %d bytes", info.Bytes)
	}
	mustUpload(t, b, info)
	if _, err := b.Download(t.Context(), info.Name, t.TempDir()); err != nil {
		t.Error(err)
	}
}

func TestBucketRefuses(t *testing.T) {
	t.Parallel()
	_, config := s3Server(t)
	b, dir := mustBucket(t, config), t.TempDir()
	info := mustSave(t, newLog(t, 3), dir, SaveOptions{})
	for _, name := range []string{"", "..", "../" + info.Name, "x/" + info.Name} {
		assertError(t, b.Delete(t.Context(), name), nil, "is not the name of a snapshot")
		_, err := b.Download(t.Context(), name, dir)
		assertError(t, err, nil, "is not the name of a snapshot")
	}
	assertError(t, b.Upload(t.Context(), filepath.Join(dir, "state.db")), nil, "is not the name of a snapshot")
	assertError(t, b.Upload(t.Context(), filepath.Join(t.TempDir(), info.Name)), fs.ErrNotExist)
	assertError(t, b.Delete(t.Context(), info.Name), nil, info.Name, "snapshot list")
	to := t.TempDir()
	_, err := b.Download(t.Context(), info.Name, to)
	assertError(t, err, nil, info.Name, "does not exist")
	assertOnly(t, to)

	config.Bucket = "nothing"
	assertError(t, mustBucket(t, config).Upload(t.Context(), info.Path), nil, "create the bucket", "s3://nothing/cluster 1/edge")
}

func TestDamagedInBucket(t *testing.T) {
	t.Parallel()
	_, config := s3Server(t)
	b, dir := mustBucket(t, config), t.TempDir()
	info := mustSave(t, newLog(t, 50), dir, SaveOptions{Reason: Scheduled})
	damage(t, info.Path, func(d []byte) []byte { return d[:len(d)-30] })
	mustUpload(t, b, info)
	_, err := b.client.PutObject(t.Context(), "backups", b.key("limpet-edge-1-20300102T030405Z-99.db.zst"), strings.NewReader("x"), 1, minio.PutObjectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.client.PutObject(t.Context(), "backups", b.key("readme.txt"), strings.NewReader("x"), 1, minio.PutObjectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	list, err := b.List(t.Context())
	if err != nil || len(list) != 2 || list[0].Damage == "" || list[0].Revision != 99 {
		t.Errorf("%+v, %v", list, err)
	}
	to := t.TempDir()
	_, err = b.Download(t.Context(), info.Name, to)
	assertError(t, err, ErrDamaged)
	assertOnly(t, to)
}

func TestTLSOfBucket(t *testing.T) {
	t.Parallel()
	_, config := s3Server(t)
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, []byte(config.EndpointCA), 0o600); err != nil {
		t.Fatal(err)
	}
	for ca, skip := range map[string]bool{config.EndpointCA: false, file: false, base64.StdEncoding.EncodeToString([]byte(config.EndpointCA)): false, "": true} {
		c := config
		c.EndpointCA, c.SkipVerify = ca, skip
		if _, err := mustBucket(t, c).List(t.Context()); err != nil {
			t.Error(err)
		}
	}
	config.EndpointCA = ""
	_, err := mustBucket(t, config).List(t.Context())
	assertError(t, err, nil, "certificate")
}

func TestS3Configuration(t *testing.T) {
	t.Parallel()
	good := S3Config{Bucket: "b", AccessKey: accessKey, SecretKey: secretKey}
	if b := mustBucket(t, good); b.String() != "s3://b at s3.amazonaws.com" {
		t.Error(b)
	}
	for words, change := range map[string]func(*S3Config){
		"no name of a bucket": func(c *S3Config) { c.Bucket = "" },
		"or neither":          func(c *S3Config) { c.SecretKey = "" },
		"must be HOST":        func(c *S3Config) { c.Endpoint = "https://user:" + secretKey + "@host" },
		"not auto, dns":       func(c *S3Config) { c.BucketLookup = "x" },
		"negative":            func(c *S3Config) { c.Timeout = -1 },
		"empty parts":         func(c *S3Config) { c.Folder = "a/../../b" },
		"read the endpoint":   func(c *S3Config) { c.EndpointCA = "/missing/file" },
		"no certificate":      func(c *S3Config) { c.EndpointCA = "-----BEGIN" },
	} {
		c := good
		change(&c)
		_, err := OpenBucket(c)
		assertError(t, err, nil, "S3 configuration", words)
		assertNoSecret(t, err.Error())
	}
}

func assertNoSecret(t *testing.T, text string) {
	t.Helper()
	for _, s := range []string{accessKey, secretKey, session} {
		if strings.Contains(text, s) {
			t.Errorf("%s is in %s", s, text)
		}
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	t.Parallel()
	c := S3Config{Bucket: "b", AccessKey: accessKey, SecretKey: secretKey, SessionToken: session}
	type wrapped struct{ C S3Config }
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%T"} {
		assertNoSecret(t, fmt.Sprintf(verb+" "+verb+" "+verb+" "+verb, c, &c, wrapped{c}, c.SecretKey))
	}
	text, err := json.Marshal(wrapped{c})
	if err != nil || !bytes.Contains(text, []byte(redacted)) {
		t.Error(err)
	}
	assertNoSecret(t, string(text))
	var log bytes.Buffer
	for _, h := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
		slog.New(h).Info("x", "config", c, "pointer", &c, "secret", c.SecretKey)
	}
	assertNoSecret(t, log.String())
	var back S3Config
	if err := json.Unmarshal([]byte(`{"SecretKey": "abc"}`), &back); err != nil || string(back.SecretKey) != "abc" {
		t.Error("a configuration cannot be read:", err)
	}
}

// Whatever goes wrong with the bucket: the local snapshot is there, the status
// says it, nothing secret is told, and the next attempt makes up for it.
func TestUploadFails(t *testing.T) {
	t.Parallel()
	_, config := s3Server(t)
	hang := make(chan struct{})
	bad := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/hang") {
			<-hang
		}
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(w, "<Error><Code>AccessDenied</Code><Message>%s may not, nor %s, nor %s</Message></Error>", accessKey, secretKey, session)
	}))
	t.Cleanup(bad.Close)
	t.Cleanup(func() { close(hang) })
	gone := httptest.NewServer(nil)
	gone.Close()
	plainHTTP := func(c *S3Config, srv *httptest.Server) {
		c.Insecure, c.Endpoint = true, strings.TrimPrefix(srv.URL, "http://")
	}
	for name, tc := range map[string]struct {
		change func(*S3Config)
		words  string
	}{
		"wrong key":    {func(c *S3Config) { c.SecretKey = "wrong" }, "check the access key"},
		"told secrets": {func(c *S3Config) { plainHTTP(c, bad) }, redacted},
		"unreachable":  {func(c *S3Config) { plainHTTP(c, gone) }, "refused"},
		"hanging":      {func(c *S3Config) { plainHTTP(c, bad); c.Bucket = "hang"; c.Timeout = 200 * time.Millisecond }, "deadline"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := config
			tc.change(&c)
			dir, log := t.TempDir(), newLog(t, 3)
			var logs bytes.Buffer
			s := NewScheduler(SchedulerOptions{Source: log, Dir: dir, Node: "edge-1", Timing: mustParse(t, "6h"), Bucket: mustBucket(t, c),
				Revision: func() int64 { return log.rev }, Logger: slog.New(slog.NewTextHandler(&logs, nil))})
			info, err := s.Take(t.Context(), Scheduled)
			assertError(t, err, ErrUpload, tc.words, info.Name, dir)
			assertOnly(t, dir, info.Name)
			s.scheduled(t.Context()) // nothing has changed, but it is tried again
			st := s.Status()
			if st.Taken != 1 || st.Skipped != 1 || st.Failed != 0 || st.Bucket.Failed != 2 || st.Bucket.Error == "" || !st.Bucket.Success.IsZero() {
				t.Errorf("unexpected %+v, %+v", st, st.Bucket)
			}
			assertNoSecret(t, err.Error()+st.Bucket.Error+st.Error+logs.String())
			s.o.Bucket = mustBucket(t, config) // it is healed
			s.scheduled(t.Context())
			if st = s.Status(); st.Bucket.Error != "" || st.Bucket.Newest != info.Name || st.Bucket.Success.IsZero() {
				t.Errorf("unexpected %+v", st.Bucket)
			}
			if list, err := s.o.Bucket.List(t.Context()); err != nil || !slices.ContainsFunc(list, func(i Info) bool { return i.Name == info.Name }) {
				t.Errorf("%v, %v", list, err)
			}
		})
	}
}

func TestCancelledDownload(t *testing.T) {
	t.Parallel()
	_, config := s3Server(t)
	b := mustBucket(t, config)
	info := mustSave(t, newLog(t, 3), t.TempDir(), SaveOptions{})
	mustUpload(t, b, info)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	to := t.TempDir()
	_, err := b.Download(ctx, info.Name, to)
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	assertOnly(t, to)
}
