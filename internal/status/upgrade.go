package status

import (
	"fmt"
	"io"
	"time"
)

// Upgrade is the newest upgrade or rollback of this machine's limpet.
type Upgrade struct {
	ID    string `json:"id,omitempty"`
	Kind  string `json:"kind,omitempty"`
	Phase string `json:"phase,omitempty"`
	From  string `json:"from,omitempty"`
	To    string `json:"to,omitempty"`
	// Text says it in one line.
	Text     string    `json:"text"`
	UnderWay bool      `json:"underWay,omitempty"`
	Failed   bool      `json:"failed,omitempty"`
	Ended    time.Time `json:"ended,omitzero"`
}

// Line is for people: empty if there is nothing to say of it any more.
func (u *Upgrade) Line(now time.Time) string {
	switch {
	case u == nil || !u.UnderWay && !u.Failed:
		return ""
	case u.UnderWay || u.Ended.IsZero() || now.Before(u.Ended):
		return "Upgrade: " + u.Text
	}
	return fmt.Sprintf("Upgrade, %s ago: %s", age(now, u.Ended), u.Text)
}

func writeUpgrade(w io.Writer, u *Upgrade, now time.Time) {
	if line := u.Line(now); line != "" {
		fmt.Fprintf(w, "\n%s\n", line)
	}
}
