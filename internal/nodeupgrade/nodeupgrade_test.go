package nodeupgrade

import (
	"strings"
	"testing"
	"time"
)

func request() Request {
	return Request{Node: "n2", Plan: "site", UID: "u1", Generation: 3, Version: "v1.2.3", URL: "https://example.com/v1.2.3/", Timeout: Duration(5 * time.Minute)}
}

func TestRequest(t *testing.T) {
	t.Parallel()
	want := request()
	got, err := ParseRequest(want.String(), "n2")
	if err != nil || got != want {
		t.Fatalf("%+v, %v", got, err)
	}
	if want.ID() != "u1/3/v1.2.3" {
		t.Errorf("ID %s", want.ID())
	}
	for name, c := range map[string]struct {
		change func(*Request)
		err    string
	}{
		"of another node":  {func(r *Request) { r.Node = "n3" }, `it is for node "n3", not for "n2"`},
		"no plan":          {func(r *Request) { r.Plan = "" }, "names no plan"},
		"no UID":           {func(r *Request) { r.UID = "" }, "names no plan"},
		"no version":       {func(r *Request) { r.Version = "" }, "is no version"},
		"a path":           {func(r *Request) { r.Version = "../v1.2.3" }, "is no version"},
		"no time":          {func(r *Request) { r.Timeout = 0 }, "the timeout 0s"},
		"too much time":    {func(r *Request) { r.Timeout = Duration(48 * time.Hour) }, "the timeout 48h"},
		"two sources":      {func(r *Request) { r.FromServer = true }, "and the server"},
		"a file":           {func(r *Request) { r.URL = "/etc/passwd" }, "begins with https://"},
		"another scheme":   {func(r *Request) { r.URL = "file:///etc/passwd" }, "begins with https://"},
		"no host":          {func(r *Request) { r.URL = "https:///x" }, "begins with https://"},
		"an unreadable":    {func(r *Request) { r.URL = "https://user:secret@[x" }, "cannot be read"},
		"a very long URL":  {func(r *Request) { r.URL = "https://example.com/" + strings.Repeat("x", maxURL) }, "longer than"},
		"a long nonsense":  {func(r *Request) { r.Plan = strings.Repeat("x", maxAnnotation) }, "longer than"},
		"a plan too long":  {func(r *Request) { r.Plan = strings.Repeat("x", 300) }, "names no plan"},
		"a secret is kept": {func(r *Request) { r.URL = "ftp://user:secret@host/" }, "xxxxx@host"},
	} {
		r := request()
		c.change(&r)
		_, err := ParseRequest(r.String(), "n2")
		if err == nil || !strings.Contains(err.Error(), c.err) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, want %q", name, err, c.err)
		}
	}
	for _, text := range []string{"", "{", `{"timeout":5}`, `{"timeout":"x"}`, "null"} {
		if _, err := ParseRequest(text, "n2"); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}

func TestReport(t *testing.T) {
	t.Parallel()
	want := Report{Version: "v1.0.0", Request: "u1/3/v1.2.3", Phase: Failed, Reason: "it did not get ready"}
	got, err := ParseReport(want.String())
	if err != nil || got != want {
		t.Fatalf("%+v, %v", got, err)
	}
	if got := want.About("u1/3/v1.2.3"); got != want {
		t.Errorf("%+v", got)
	}
	for _, id := range []string{"", "u1/4/v1.2.3"} {
		if got := want.About(id); got != (Report{Version: "v1.0.0"}) {
			t.Errorf("about %q: %+v", id, got)
		}
	}
	for _, text := range []string{"", "[]", `{}`, `{"version":"latest"}`, `{"version":"v1.0.0","phase":"Dancing"}`} {
		if _, err := ParseReport(text); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}

func TestReasonIsOneLine(t *testing.T) {
	t.Parallel()
	r := Report{Version: "v1.0.0", Reason: "a\n\tb \x1b[31mred\x00 " + strings.Repeat("ü", 2*maxReason)}
	got, err := ParseReport(r.String())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(got.Reason, "a b [31mred ü") || len(got.Reason) > maxReason || strings.ContainsAny(got.Reason, "\n\x1b\x00\uFFFD") {
		t.Errorf("%d bytes: %q", len(got.Reason), got.Reason)
	}
}

func TestFinal(t *testing.T) {
	t.Parallel()
	for phase, want := range map[Phase]bool{"": false, Preparing: false, Installing: false, Upgraded: true, Refused: true, Failed: true} {
		if phase.Final() != want {
			t.Errorf("%q", phase)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(request().String())
	f.Add(Report{Version: "v1.0.0", Phase: Failed, Reason: "x"}.String())
	f.Fuzz(func(t *testing.T, text string) {
		if r, err := ParseRequest(text, "n2"); err == nil {
			if again, err := ParseRequest(r.String(), "n2"); err != nil || again != r {
				t.Errorf("%+v becomes %+v, %v", r, again, err)
			}
		}
		if r, err := ParseReport(text); err == nil {
			if again, err := ParseReport(r.String()); err != nil || again != r {
				t.Errorf("%+v becomes %+v, %v", r, again, err)
			}
		}
	})
}
