// Package nodeupgrade is what a server and an agent tell each other when an
// UpgradePlan upgrades the agent: two annotations on the agent's Node.
//
// The server writes a [Request]. The agent's kubelet, which can change no other
// Node, writes a [Report]: always which version runs, and how far the request has
// come. Neither side believes the other more than it has to. A request only names
// a release, which the agent verifies with the key that is stamped into itself;
// a report is shown to people, and its version is compared.
package nodeupgrade

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/limpetio/limpet/internal/release"
)

// The annotations on a Node.
const (
	// RequestAnnotation holds a [Request] while the node is to be upgraded.
	RequestAnnotation = "limpet.io/upgrade"
	// ReportAnnotation holds the [Report] of an agent.
	ReportAnnotation = "limpet.io/upgrade-status"
)

// ServerPath is the directory on the API server's port below which a server gives
// agents the release that it runs itself: ServerPath + release.ArchiveFile(arch).
const ServerPath = "/v1-limpet/release/"

// Limits of what is read. A reason is what a person reads in a table.
const (
	maxAnnotation = 4096
	maxReason     = 1024
	maxURL        = 2048
	maxName       = 253
)

// Bounds of how long a new version may take to get well.
const (
	MinTimeout = 10 * time.Second
	MaxTimeout = 24 * time.Hour
)

// Request asks one node to run another version.
type Request struct {
	// Node is whom it is for; a request that was copied to another Node is refused.
	Node string `json:"node"`
	// Plan, UID and Generation say of which UpgradePlan it is.
	Plan       string `json:"plan"`
	UID        string `json:"uid"`
	Generation int64  `json:"generation"`
	// Version is what shall run.
	Version string `json:"version"`
	// URL is where the release is, as release.Fetch takes it; empty: where releases
	// are published.
	URL string `json:"url,omitempty"`
	// FromServer: the server hands out the release itself; URL is empty then.
	FromServer bool `json:"fromServer,omitempty"`
	// Timeout is how long the new version may take to get ready until the old one
	// comes back, as time.ParseDuration reads it.
	Timeout Duration `json:"timeout"`
}

// ID tells this request from those of other plans, of another specification of
// the same plan, and of another version of a server that the plan follows.
func (r Request) ID() string {
	return r.UID + "/" + strconv.FormatInt(r.Generation, 10) + "/" + r.Version
}

// String is the value of the annotation.
func (r Request) String() string { return encode(r) }

// Phase is how far an agent has come with a request.
type Phase string

// The phases. The last three are final: the agent does nothing more for the request.
const (
	// Preparing: the release is downloaded and verified, or is waited for.
	Preparing Phase = "Preparing"
	// Installing: the old version hands over to the new one, which is watched until it is ready.
	Installing Phase = "Installing"
	// Upgraded: the version that was asked for runs and was found healthy.
	Upgraded Phase = "Upgraded"
	// Refused: nothing was changed.
	Refused Phase = "Refused"
	// Failed: the new version was tried, and the old one is back.
	Failed Phase = "Failed"
)

// Final reports whether the agent has ended with the request.
func (p Phase) Final() bool { return p == Upgraded || p == Refused || p == Failed }

// Report is what an agent says of itself.
type Report struct {
	// Version of limpet that runs.
	Version string `json:"version"`
	// Request is the ID of the request that the rest is about; empty: there is none.
	Request string `json:"request,omitempty"`
	Phase   Phase  `json:"phase,omitempty"`
	// Reason is why, for a person.
	Reason string `json:"reason,omitempty"`
}

// String is the value of the annotation. A reason is shortened to what ParseReport takes.
func (r Report) String() string {
	r.Reason = oneLine(r.Reason)
	return encode(r)
}

// About is the report as far as it is about a request: without a phase if it is
// about none, or another one.
func (r Report) About(id string) Report {
	if r.Request == id && id != "" {
		return r
	}
	return Report{Version: r.Version}
}

// ParseRequest reads the annotation for the node of that name. The error says what
// a person has to put right.
func ParseRequest(text, node string) (Request, error) {
	var r Request
	if err := decode(text, &r); err != nil {
		return Request{}, fmt.Errorf("annotation %s: %w", RequestAnnotation, err)
	}
	if err := r.check(node); err != nil {
		return Request{}, fmt.Errorf("annotation %s: %w", RequestAnnotation, err)
	}
	return r, nil
}

func (r Request) check(node string) error {
	switch {
	case r.Node != node:
		return fmt.Errorf("it is for node %q, not for %q", r.Node, node)
	case r.Plan == "" || r.UID == "" || len(r.Plan) > maxName || len(r.UID) > maxName:
		return errors.New("it names no plan")
	case time.Duration(r.Timeout) < MinTimeout || time.Duration(r.Timeout) > MaxTimeout:
		return fmt.Errorf("the timeout %s is not between %s and %s", time.Duration(r.Timeout), MinTimeout, MaxTimeout)
	case r.FromServer && r.URL != "":
		return errors.New("it names a URL and the server as the source")
	}
	if err := release.CheckVersion(r.Version); err != nil {
		return err
	}
	if r.URL == "" {
		return nil
	}
	return CheckURL(r.URL)
}

// CheckURL says whether text is the URL of a release. A path on the machine is
// none: what a plan names must be the same everywhere.
func CheckURL(text string) error {
	if len(text) > maxURL {
		return fmt.Errorf("the URL is longer than %d bytes", maxURL)
	}
	u, err := url.Parse(text)
	if err != nil {
		return errors.New("the URL cannot be read") // the error repeats it, with a password
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return fmt.Errorf("%q is not a URL that begins with https:// or http://", u.Redacted())
	}
	return nil
}

// ParseReport reads the annotation. Who wrote it may be a node that was stolen.
func ParseReport(text string) (Report, error) {
	var r Report
	if err := decode(text, &r); err != nil {
		return Report{}, fmt.Errorf("annotation %s: %w", ReportAnnotation, err)
	}
	if err := release.CheckVersion(r.Version); err != nil {
		return Report{}, fmt.Errorf("annotation %s: %w", ReportAnnotation, err)
	}
	switch r.Phase {
	case "", Preparing, Installing, Upgraded, Refused, Failed:
	default:
		return Report{}, fmt.Errorf("annotation %s: the phase is not known", ReportAnnotation)
	}
	r.Reason = oneLine(r.Reason)
	return r, nil
}

// Duration is a time.Duration that is "5m0s" in JSON.
type Duration time.Duration

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = Duration(v)
	return err
}

func encode(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		return "" // strings and numbers always marshal
	}
	return string(data)
}

func decode(text string, into any) error {
	if len(text) > maxAnnotation {
		return fmt.Errorf("it is longer than %d bytes", maxAnnotation)
	}
	return json.Unmarshal([]byte(text), into)
}

// oneLine makes a text fit for a table and a terminal.
func oneLine(text string) string {
	text = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, text)
	text = strings.Join(strings.Fields(text), " ")
	for len(text) > maxReason {
		runes := []rune(text)
		text = string(runes[:len(runes)-len(runes)/8-1])
	}
	return text
}
