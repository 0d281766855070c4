package upgrades

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/limpetio/limpet/internal/nodeupgrade"
	"github.com/limpetio/limpet/internal/upgrade"
)

// site is the API server as far as one Node goes, and the machine's limpet.
type site struct {
	*testing.T
	own *OwnNode
	// starts gets what is started; its answer comes from results.
	starts  chan nodeupgrade.Request
	results chan error
	// ends lets Await return.
	ends chan struct{}

	mu      sync.Mutex
	report  string // the annotation
	reports []nodeupgrade.Report
	told    chan struct{}
	journal *upgrade.Journal
	broken  bool // the API server does not answer
}

func newSite(t *testing.T) *site {
	return &site{
		T: t, own: NewOwnNode(), starts: make(chan nodeupgrade.Request, 8), results: make(chan error, 8),
		ends: make(chan struct{}), told: make(chan struct{}, 64),
	}
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken {
		http.Error(w, "no", http.StatusServiceUnavailable)
		return
	}
	if r.Method == http.MethodPatch {
		data, _ := io.ReadAll(r.Body)
		var node corev1.Node
		if err := json.Unmarshal(data, &node); err != nil || len(node.Annotations) != 1 {
			s.Errorf("patch %s: %v", data, err)
		}
		s.report = node.Annotations[nodeupgrade.ReportAnnotation]
		report, err := nodeupgrade.ParseReport(s.report)
		if err != nil {
			s.Error(err)
		}
		s.reports = append(s.reports, report)
		s.told <- struct{}{}
	}
	node := corev1.Node{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}, ObjectMeta: metav1.ObjectMeta{Name: "n2"}}
	if s.report != "" {
		node.Annotations = map[string]string{nodeupgrade.ReportAnnotation: s.report}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(node)
}

func (s *site) Start(ctx context.Context, r nodeupgrade.Request, client *http.Client, _ func(string)) error {
	if client == nil {
		return errors.New("no client")
	}
	s.starts <- r
	select {
	case err := <-s.results:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *site) Load() (*upgrade.Journal, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.journal, nil
}

func (s *site) Await(ctx context.Context, _ string, changed func()) error {
	changed()
	select {
	case <-s.ends:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *site) write(j *upgrade.Journal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.journal = j
}

// run runs an agent of the version until the test or stop ends it.
func (s *site) run(version string, online chan struct{}) (stop func()) {
	server := httptest.NewServer(s)
	ctx, cancel := context.WithCancel(s.Context())
	u := New(Options{
		NodeName: "n2", Version: version, Online: online, Node: s.own, Machine: s, Logger: slog.New(slog.DiscardHandler),
		RestConfig: func() (*rest.Config, error) { return &rest.Config{Host: server.URL}, nil },
	})
	done := make(chan struct{})
	u.pause = 10 * time.Millisecond
	go func() {
		defer close(done)
		if err := u.Run(ctx, func() {}); err != nil {
			s.Error(err)
		}
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		<-done
		server.Close()
	})
	s.Cleanup(stop)
	return stop
}

func closed() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

func (s *site) ask(r nodeupgrade.Request) {
	s.own.Seen(map[string]string{nodeupgrade.RequestAnnotation: r.String()})
}

// reported waits for a report.
func (s *site) reported(phase nodeupgrade.Phase, reason string) {
	s.Helper()
	for deadline := time.After(20 * time.Second); ; {
		s.mu.Lock()
		var last nodeupgrade.Report
		if len(s.reports) > 0 {
			last = s.reports[len(s.reports)-1]
		}
		s.mu.Unlock()
		if last.Version != "" && last.Phase == phase && strings.Contains(last.Reason, reason) {
			return
		}
		select {
		case <-s.told:
		case <-deadline:
			s.Fatalf("the last report is %+v, want %s %q", last, phase, reason)
		}
	}
}

func (s *site) started() nodeupgrade.Request {
	s.Helper()
	select {
	case r := <-s.starts:
		return r
	case <-time.After(20 * time.Second):
		s.Fatal("nothing was started")
	}
	return nodeupgrade.Request{}
}

func TestUpgradeAcrossTheRestart(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	online := make(chan struct{})
	stop := s.run(oldVersion, online)
	s.ask(wanted()) // from the node's own record: nobody may act on it
	select {
	case r := <-s.starts:
		t.Fatalf("started %+v before a server was reached", r)
	case <-time.After(100 * time.Millisecond):
	}
	s.own.Seen(nil)
	close(online)
	s.reported("", "")
	s.ask(wanted())
	if got := s.started(); got != wanted() {
		t.Errorf("%+v", got)
	}
	s.reported(nodeupgrade.Preparing, "gets")
	s.write(journal(upgrade.Switching))
	s.results <- nil
	s.reported(nodeupgrade.Installing, "is replaced")
	stop()

	s.write(journal(upgrade.Watching))
	s.run(newVersion, closed())
	s.reported(nodeupgrade.Installing, "is watched")
	s.write(journal(upgrade.Confirmed))
	close(s.ends)
	s.reported(nodeupgrade.Upgraded, "")
	s.own.Seen(nil)
	s.reported("", "")
	if len(s.starts) != 0 {
		t.Errorf("started again: %+v", <-s.starts)
	}
}

func TestRefusal(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	stop := s.run(oldVersion, closed())
	s.ask(wanted())
	s.started()
	s.results <- &upgrade.Error{Code: upgrade.BadSignature, What: "not signed"}
	s.reported(nodeupgrade.Refused, "not signed")
	stop()
	// Another run does not try again.
	s.run(oldVersion, closed())
	next := wanted()
	next.Generation++
	s.ask(next)
	if got := s.started(); got != next {
		t.Errorf("%+v", got)
	}
	s.results <- fmt.Errorf("fetch: %w", upgrade.ErrSame)
	s.reported(nodeupgrade.Upgraded, "this very binary")
}

func TestRequestIsTakenBack(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.run(oldVersion, closed())
	s.ask(wanted())
	s.started() // which does not end by itself
	s.own.Seen(nil)
	s.reported("", "")
	s.ask(wanted())
	s.started()
}

func TestReleaseCannotBeHadAtFirst(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.run(oldVersion, closed())
	s.ask(wanted())
	for range attempts {
		s.started()
		s.results <- errors.New("no line")
	}
	s.reported(nodeupgrade.Refused, "given up")
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.ContainsFunc(s.reports, func(r nodeupgrade.Report) bool {
		return r.Phase == nodeupgrade.Preparing && r.Reason == "tries again soon: no line"
	}) {
		t.Errorf("%+v", s.reports)
	}
}

func TestServerIsAway(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.broken = true
	s.run(oldVersion, closed())
	s.own.Seen(nil)
	time.Sleep(50 * time.Millisecond)
	s.mu.Lock()
	s.broken = false
	s.mu.Unlock()
	s.reported("", "")
}

// A Node that was made anew has no report.
func TestNodeIsMadeAnew(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.run(oldVersion, closed())
	s.own.Seen(nil)
	s.reported("", "")
	s.mu.Lock()
	text := s.report
	s.mu.Unlock()
	s.own.Seen(map[string]string{nodeupgrade.ReportAnnotation: text})
	s.mu.Lock()
	s.report, s.reports = "", nil
	s.mu.Unlock()
	s.own.Seen(map[string]string{})
	s.reported("", "")
}

func TestJudge(t *testing.T) {
	t.Parallel()
	coded := func(c upgrade.Code) error { return &upgrade.Error{Code: c, What: "it is so"} }
	for name, c := range map[string]struct {
		err  error
		want attemptState
	}{
		"done":            {nil, begun},
		"same":            {fmt.Errorf("x: %w", upgrade.ErrSame), same},
		"signature":       {coded(upgrade.BadSignature), refused},
		"machine":         {coded(upgrade.WrongMachine), refused},
		"version":         {coded(upgrade.WrongVersion), refused},
		"space":           {coded(upgrade.NoSpace), refused},
		"not replaceable": {coded(upgrade.NotReplaceable), refused},
		"network":         {coded(upgrade.NoSource), pausing},
		"another":         {coded(upgrade.UnderWay), pausing},
		"whatever else":   {errors.New("x"), pausing},
	} {
		u := New(Options{})
		if got, text := u.judge(c.err); got != c.want || text == "" {
			t.Errorf("%s: %s, %q", name, got, text)
		}
	}
	u := New(Options{})
	for range attempts - 1 {
		if got, _ := u.judge(errors.New("no line")); got != pausing {
			t.Errorf("%s", got)
		}
	}
	if got, text := u.judge(errors.New("no line")); got != refused || !strings.Contains(text, "given up after 6 attempts: no line") {
		t.Errorf("%s, %q", got, text)
	}
}
