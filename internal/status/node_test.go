package status

import (
	"strings"
	"testing"
	"time"
)

func TestNodeOfAnAgent(t *testing.T) {
	t.Parallel()
	now := time.Now()
	good := APIServer{Address: "10.0.0.1:6443", State: "healthy", Active: true}
	bad := APIServer{Address: "10.0.0.2:6443", State: "failed", Reason: "refused"}
	for name, tt := range map[string]struct {
		report   Report
		problems string
	}{
		"server":          {},
		"all is well":     {Report{Servers: []APIServer{good, bad}, Certificates: []Certificate{{Name: "dns", Expires: now.Add(time.Hour)}}}, ""},
		"no server":       {Report{Servers: []APIServer{bad}}, "server 10.0.0.2:6443: failed: refused"},
		"expired":         {Report{Certificates: []Certificate{{Name: "dns", Expires: now.Add(-time.Hour)}}}, "certificate dns has expired"},
		"overdue":         {Report{Certificates: []Certificate{{Name: "dns", Expires: now.Add(time.Hour), Overdue: true}}}, "could not be renewed"},
		"not obtained":    {Report{Certificates: []Certificate{{Name: "dns", Error: "no such file"}}}, "certificate dns: no such file"},
		"active but down": {Report{Servers: []APIServer{{Address: "a:1", State: "failed", Active: true, Reason: "timeout"}}}, "server a:1: failed: timeout"},
	} {
		got := strings.Join(tt.report.nodeProblems(now), "; ")
		if tt.problems == "" && got != "" || !strings.Contains(got, tt.problems) {
			t.Errorf("%s: problems are %q, want %q", name, got, tt.problems)
		}
	}
	var b strings.Builder
	writeNode(&b, Report{Servers: []APIServer{good}, Certificates: []Certificate{{Name: "dns", Expires: now.Add(50 * 24 * time.Hour)}}}, now)
	for _, want := range []string{"10.0.0.1:6443", "yes", "50d"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q lacks %q", b.String(), want)
		}
	}
}
