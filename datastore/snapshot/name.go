package snapshot

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// name is what a file name says. It is for people, for the order of files whose
// manifest is damaged, and for buckets.
type name struct {
	Node     string
	Created  time.Time
	Revision int64
	Again    int // tells snapshots of the same second and revision apart
}

const (
	timeLayout = "20060102T150405Z"
	maxNode    = 150 // file names have 255 bytes
)

var namePattern = regexp.MustCompile(`^limpet-([a-z0-9][a-z0-9.-]{0,149})-(\d{8}T\d{6}Z)-(\d{1,13})(?:-(\d{1,6}))?\.db\.zst$`)

func (n name) String() string {
	again := ""
	if n.Again > 0 {
		again = "-" + strconv.Itoa(n.Again)
	}
	return fmt.Sprintf("limpet-%s-%s-%d%s.db.zst", n.Node, n.Created.UTC().Format(timeLayout), n.Revision, again)
}

// parseName accepts exactly what String makes. There is no slash in it, and it
// does not begin with a dot.
func parseName(s string) (name, error) {
	m := namePattern.FindStringSubmatch(s)
	if m == nil {
		return name{}, fmt.Errorf("%q is not the name of a snapshot (limpet-NODE-TIME-REVISION.db.zst)", s)
	}
	created, err := time.Parse(timeLayout, m[2])
	if err != nil {
		return name{}, fmt.Errorf("%q is not the name of a snapshot: %w", s, err)
	}
	n := name{Node: m[1], Created: created}
	n.Revision, _ = strconv.ParseInt(m[3], 10, 64) // digits that fit
	n.Again, _ = strconv.Atoi(m[4])
	if n.String() != s {
		return name{}, fmt.Errorf("%q is not the name of a snapshot: limpet would write %s", s, n)
	}
	return n, nil
}

// nodeName makes something for a file name of the name of a node. Kubernetes'
// names need no change.
func nodeName(node string) string {
	node = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '.', r == '-':
			return r
		}
		return '-'
	}, strings.ToLower(node))
	node = strings.TrimLeft(node[:min(len(node), maxNode)], ".-")
	if node == "" {
		return "node"
	}
	return node
}
