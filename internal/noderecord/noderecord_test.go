package noderecord

import (
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
)

var now = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

func TestRecordSurvivesItsSecret(t *testing.T) {
	t.Parallel()
	for _, want := range []Record{
		{Node: "shop-1"},
		{Node: "shop-1", Fingerprint: "ab", Joined: now},
		{Node: "shop-1", Fingerprint: "ab", Joined: now, RejoinUntil: now.Add(time.Hour), Gone: now.Add(-time.Hour)},
		{Node: strings.Repeat("a", 253), Fingerprint: "ab"},
	} {
		s := want.Secret()
		if got := FromSecret(want.Node, s); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		if got := NodeOf(s); got != want.Node {
			t.Errorf("NodeOf is %q, want %q", got, want.Node)
		}
		// What is written later replaces all of it.
		(Record{Node: want.Node}).WriteTo(s)
		if got := FromSecret(want.Node, s); got != (Record{Node: want.Node}) {
			t.Errorf("after WriteTo: %+v", got)
		}
	}
}

func TestDamagedRecordFitsNobody(t *testing.T) {
	t.Parallel()
	good := Record{Node: "shop-1", Fingerprint: "ab", Joined: now, RejoinUntil: now.Add(time.Hour)}
	other := good.Secret()
	if got := FromSecret("shop-2", other); got != (Record{Node: "shop-2"}) {
		t.Errorf("another node's: %+v", got)
	}
	typed := good.Secret()
	typed.Type = "Opaque"
	if got := FromSecret("shop-1", typed); got != (Record{Node: "shop-1"}) || NodeOf(typed) != "" {
		t.Errorf("of another type: %+v", got)
	}
	dates := good.Secret()
	dates.Data[keyJoined], dates.Data[keyRejoinUntil] = []byte("yesterday"), nil
	if got := FromSecret("shop-1", dates); !got.Joined.IsZero() || !got.RejoinUntil.IsZero() || got.Fingerprint != "ab" {
		t.Errorf("with bad dates: %+v", got)
	}
	moved := good.Secret()
	moved.Name = "limpet-node-shop-9"
	if NodeOf(moved) != "" {
		t.Error("a Secret under another name counts as a record")
	}
}

func TestSecretName(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 240) + "."
	seen := map[string]string{}
	for _, node := range []string{
		"shop-1", "a", long + "b", long + "c", strings.Repeat("a.", 126) + "b", strings.Repeat("b", 253), strings.Repeat("c", 241), strings.Repeat("c", 242),
	} {
		name := SecretName(node)
		if problems := validation.IsDNS1123Subdomain(name); len(problems) > 0 {
			t.Errorf("%s is no name: %v", name, problems)
		}
		if before, ok := seen[name]; ok {
			t.Errorf("%s and %s have the same record", before, node)
		}
		seen[name] = node
	}
	if got := SecretName("shop-1"); got != "limpet-node-shop-1" {
		t.Errorf("got %s", got)
	}
}

func TestRejoinAllowed(t *testing.T) {
	t.Parallel()
	for until, want := range map[time.Time]bool{
		{}:                             false,
		now:                            false,
		now.Add(time.Second):           true,
		now.Add(MaxRejoin):             true,
		now.Add(MaxRejoin + time.Hour): false, // written while the clock was ahead
	} {
		if got := (Record{RejoinUntil: until}).RejoinAllowed(now); got != want {
			t.Errorf("until %v: %t", until, got)
		}
	}
}
