package release

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// How a download bears with a bad line.
const (
	headerTimeout = 30 * time.Second
	stallTimeout  = time.Minute // without a single byte
	attempts      = 5           // in a row without progress
	backoff       = time.Second // doubled each time
)

// newClient is a client that waits for slow lines, but not for dead ones.
func newClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: headerTimeout}).DialContext,
		TLSHandshakeTimeout:   headerTimeout,
		ResponseHeaderTimeout: headerTimeout,
		ForceAttemptHTTP2:     true,
		DisableKeepAlives:     false,
		IdleConnTimeout:       time.Minute,
	}}
}

func isURL(source string) bool {
	return strings.HasPrefix(source, "https://") || strings.HasPrefix(source, "http://")
}

// redactUserinfo hides a password in a URL that goes into messages.
func redactUserinfo(source string) string {
	if u, err := url.Parse(source); err == nil && isURL(source) {
		return u.Redacted()
	}
	return source
}

// statusError is an answer other than 200 or 206.
type statusError struct {
	code   int
	status string
}

func (e *statusError) Error() string { return "the server answers " + e.status }

// missing reports whether err says that there is no such file.
func missing(err error) bool {
	status := (*statusError)(nil)
	return errors.Is(err, fs.ErrNotExist) || (errors.As(err, &status) && status.code == http.StatusNotFound)
}

// open opens a file by URL or path. The progress of a big one is told.
func (f *fetcher) open(ctx context.Context, source string, big bool) (io.ReadCloser, error) {
	if !isURL(source) {
		return os.Open(source)
	}
	d := &download{ctx: ctx, f: f, url: source, total: -1}
	if big {
		d.progress = f.Progress
	}
	if err := d.retry(nil); err != nil {
		return nil, fmt.Errorf("get %s: %w", redactUserinfo(source), err)
	}
	return d, nil
}

// download reads a URL and goes on where a connection broke.
type download struct {
	ctx      context.Context
	f        *fetcher
	url      string
	progress func(done, total int64)

	body        io.ReadCloser
	cancel      context.CancelFunc // ends the present request
	watch       *time.Timer        // calls cancel when nothing comes
	done, total int64
	etag        string
	failures    int // in a row without a byte
}

// Read returns an error only when it has tried again in vain.
func (d *download) Read(p []byte) (int, error) {
	for {
		n, err := d.body.Read(p)
		if n > 0 {
			d.watch.Reset(stallTimeout)
			d.done, d.failures = d.done+int64(n), 0
			if d.progress != nil {
				d.progress(d.done, d.total)
			}
			return n, nil // an error comes again
		}
		if err == nil {
			continue
		}
		if errors.Is(err, io.EOF) && (d.total < 0 || d.done == d.total) {
			return 0, io.EOF
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err := d.retry(err); err != nil {
			return 0, fmt.Errorf("get %s: after %d bytes: %w", redactUserinfo(d.url), d.done, err)
		}
	}
}

// Close ends the request.
func (d *download) Close() error {
	if d.body == nil {
		return nil
	}
	d.watch.Stop()
	d.cancel()
	return d.body.Close()
}

// retry requests what is missing, until it begins to come, the server refuses,
// or too many attempts have failed. The cause is why the last one ended; nil: there was none.
func (d *download) retry(cause error) error {
	for {
		if cause != nil {
			if d.failures++; d.failures >= attempts || d.ctx.Err() != nil {
				return cause
			}
			d.f.log.Warn("download broke, trying again", "url", redactUserinfo(d.url), "bytes", d.done, "error", cause)
			select {
			case <-time.After(backoff << (d.failures - 1)):
			case <-d.ctx.Done():
				return context.Cause(d.ctx)
			}
		}
		err := d.request()
		if err == nil {
			return nil
		}
		if status := (*statusError)(nil); errors.As(err, &status) && status.code < 500 && status.code != http.StatusTooManyRequests {
			return err // it will say so again
		}
		if errors.Is(err, errChanged) {
			return err
		}
		cause = err
	}
}

var errChanged = errors.New("the file has changed on the server meanwhile; try again")

// request opens the body from the first byte that is missing.
func (d *download) request() error {
	_ = d.Close()
	ctx, cancel := context.WithCancel(d.ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.url, nil)
	if err != nil {
		cancel()
		return err
	}
	req.Header.Set("Accept-Encoding", "identity")
	if d.done > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", d.done))
	}
	resp, err := d.f.Client.Do(req)
	if err != nil {
		cancel()
		return err
	}
	if err := d.accept(resp); err != nil {
		_ = resp.Body.Close()
		cancel()
		return err
	}
	d.body, d.cancel = resp.Body, cancel
	d.watch = time.AfterFunc(stallTimeout, cancel)
	return nil
}

// accept looks at the answer's head and skips what has come before.
func (d *download) accept(resp *http.Response) error {
	switch {
	case resp.StatusCode == http.StatusOK && d.done == 0:
		d.total, d.etag = resp.ContentLength, resp.Header.Get("ETag")
		return nil
	case resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusPartialContent:
		return &statusError{code: resp.StatusCode, status: resp.Status}
	case resp.Header.Get("ETag") != d.etag:
		return errChanged
	case resp.StatusCode == http.StatusPartialContent:
		var from int64
		if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-", &from); err != nil || from != d.done {
			return fmt.Errorf("asked for the bytes from %d, got %q", d.done, resp.Header.Get("Content-Range"))
		}
		return nil
	}
	// A server that knows no ranges begins again.
	_, err := io.CopyN(io.Discard, resp.Body, d.done)
	return err
}
