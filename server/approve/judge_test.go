package approve

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/limpetio/limpet/internal/noderecord"
)

func inspected(t testing.TB, w wish) Request {
	t.Helper()
	r, d := Inspect(w.csr(t), testPolicy())
	if d != nil {
		t.Fatalf("decided already: %+v", *d)
	}
	return r
}

func TestJudgeJoin(t *testing.T) {
	t.Parallel()
	me := newIdentity(t)
	mine := fingerprint(t, me)
	node := testNode("shop-1", "10.0.0.7")
	long, short := now.Add(-time.Hour), now.Add(-time.Minute)
	record := func(fp string, joined time.Time, change ...func(*noderecord.Record)) *noderecord.Record {
		r := &noderecord.Record{Node: "shop-1", Fingerprint: fp, Joined: joined}
		for _, c := range change {
			c(r)
		}
		return r
	}
	rejoin := func(until time.Time) func(*noderecord.Record) {
		return func(r *noderecord.Record) { r.RejoinUntil = until }
	}
	gone := func(r *noderecord.Record) { r.Gone = long }

	for name, c := range map[string]struct {
		node   *corev1.Node
		record *noderecord.Record
		want   Verdict
		writes bool
	}{
		"a free name":                            {nil, nil, Approve, true},
		"own name, Node there":                   {node, record(mine, long), Approve, false},
		"own name, Node not there yet":           {nil, record(mine, short), Approve, true},
		"own name, Node deleted":                 {nil, record(mine, long, gone), Approve, true},
		"own name, Node back":                    {node, record(mine, long, gone), Approve, true},
		"own name, rejoin allowed":               {node, record(mine, long, rejoin(now.Add(time.Minute))), Approve, true},
		"another's name, Node there":             {node, record("another", long), Deny, false},
		"another's name, just taken":             {nil, record("another", short), Deny, false},
		"another's name, Node deleted":           {nil, record("another", long), Approve, true},
		"another's name, clock was set back":     {nil, record("another", now.Add(time.Minute)), Deny, false},
		"another's name, clock was far ahead":    {nil, record("another", now.Add(time.Hour)), Approve, true},
		"another's name, rejoin allowed":         {node, record("another", long, rejoin(now.Add(time.Minute))), Approve, true},
		"another's name, rejoin over":            {node, record("another", long, rejoin(now)), Deny, false},
		"another's name, rejoin for years":       {node, record("another", long, rejoin(now.Add(1000*time.Hour))), Deny, false},
		"a Node nobody joined":                   {node, nil, Deny, false},
		"a Node nobody joined, rejoin allowed":   {node, record("", time.Time{}, rejoin(now.Add(time.Minute))), Approve, true},
		"a Node nobody joined, rejoin over":      {node, record("", time.Time{}, rejoin(short)), Deny, false},
		"rejoin over and no Node":                {nil, record("", time.Time{}, rejoin(short)), Approve, true},
		"a record that is damaged, and its Node": {node, record("", time.Time{}), Deny, false},
	} {
		d := inspected(t, joinWish("shop-1", me)).Judge(testPolicy(), State{Now: now, Node: c.node, Record: c.record})
		if d.Verdict != c.want || (d.Record != nil) != c.writes {
			t.Errorf("%s: %s (%s), record %+v; want %s, written: %t", name, d.Verdict, d.Message, d.Record, c.want, c.writes)
		}
		if want := (noderecord.Record{Node: "shop-1", Fingerprint: mine, Joined: now}); d.Record != nil && *d.Record != want {
			t.Errorf("%s: writes %+v, want %+v", name, *d.Record, want)
		}
		if d.Verdict == Deny && (d.Reason != noderecord.ReasonNameTaken || !strings.Contains(d.Message, "limpet node rejoin shop-1") || !strings.Contains(d.Message, "--with-node-id")) {
			t.Errorf("%s: denied with %q, %q", name, d.Reason, d.Message)
		}
	}
}

func TestNobodyJoinsAsTheServersNode(t *testing.T) {
	t.Parallel()
	me := newIdentity(t)
	// Even with a permission to rejoin, and even before its Node is there.
	record := &noderecord.Record{Node: "mast", Fingerprint: fingerprint(t, me), RejoinUntil: now.Add(time.Minute)}
	d := inspected(t, joinWish("mast", me)).Judge(testPolicy(), State{Now: now, Record: record})
	if d.Verdict != Deny || d.Reason != noderecord.ReasonNameTaken {
		t.Errorf("decided %+v", d)
	}
	without := testPolicy()
	without.OwnNode = "" // a server without a node: the name is still in its certificate
	if _, d := Inspect(joinWish("mast", me).csr(t), without); d == nil || d.Verdict != Deny {
		t.Errorf("without an own node: decided %+v", d)
	}
}

func TestJudgeOwn(t *testing.T) {
	t.Parallel()
	me := newIdentity(t)
	mine := fingerprint(t, me)
	proved := func(w *wish) { w.identity = me }
	until := now.Add(time.Hour)
	for name, c := range map[string]struct {
		wish   wish
		record *noderecord.Record
		want   Verdict
		write  *noderecord.Record
	}{
		"renewal":                         {renewalWish("shop-1"), nil, Approve, nil},
		"renewal, proof as recorded":      {renewalWish("shop-1").with(proved), &noderecord.Record{Fingerprint: mine}, Approve, nil},
		"renewal, proof, no record":       {renewalWish("shop-1").with(proved), nil, Approve, &noderecord.Record{Node: "shop-1", Fingerprint: mine, Joined: now}},
		"renewal, proof, rejoin allowed":  {renewalWish("shop-1").with(proved), &noderecord.Record{Node: "shop-1", RejoinUntil: until}, Approve, &noderecord.Record{Node: "shop-1", Fingerprint: mine, RejoinUntil: until}},
		"renewal, the name was given on":  {renewalWish("shop-1").with(proved), &noderecord.Record{Fingerprint: "another"}, Deny, nil},
		"agent":                           {agentWish("shop-1", "limpet:dns"), nil, Approve, nil},
		"agent, the name was given on":    {agentWish("shop-1", "limpet:dns").with(proved), &noderecord.Record{Fingerprint: "another"}, Deny, nil},
		"serving, the name was given on":  {servingWish("shop-1", []string{"shop-1"}, nil).with(proved), &noderecord.Record{Fingerprint: "another"}, Deny, nil},
		"serving, proof, and as recorded": {servingWish("shop-1", []string{"shop-1"}, nil).with(proved), &noderecord.Record{Fingerprint: mine}, Approve, nil},
	} {
		d := inspected(t, c.wish).Judge(testPolicy(), State{Now: now, Record: c.record, Node: testNode("shop-1", "10.0.0.7")})
		if d.Verdict != c.want {
			t.Errorf("%s: decided %+v, want %s", name, d, c.want)
		}
		if (d.Record == nil) != (c.write == nil) || d.Record != nil && *d.Record != *c.write {
			t.Errorf("%s: writes %+v, want %+v", name, d.Record, c.write)
		}
	}
}

func TestJudgeServing(t *testing.T) {
	t.Parallel()
	node := testNode("shop-1", "10.0.0.7", "fd00::7", "::ffff:10.0.0.9")
	node.Status.Addresses = append(node.Status.Addresses,
		corev1.NodeAddress{Type: corev1.NodeInternalDNS, Address: "shop-1.example.com"},
		// What a stolen node may write into its own status.
		corev1.NodeAddress{Type: corev1.NodeHostName, Address: "kubernetes.default.svc"},
		corev1.NodeAddress{Type: corev1.NodeHostName, Address: "shop-2"},
		corev1.NodeAddress{Type: corev1.NodeHostName, Address: "same"},
		corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: "10.0.0.1"},
		corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: "10.43.0.10"},
		corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: "10.42.1.1"},
		corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: "127.0.0.1"},
		corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: "10.0.0.8"},
		corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: "198.51.100.1"},
		corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: "10.0.0.88"},
	)
	other := testNode("shop-2", "10.0.0.8")
	other.Status.Addresses = append(other.Status.Addresses,
		corev1.NodeAddress{Type: corev1.NodeInternalDNS, Address: "same"},
		corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: "198.51.100.1"},
		corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: "10.0.0.88"},
	)
	all := []*corev1.Node{node, other, testNode("mast", "10.0.0.1")}

	for name, c := range map[string]struct {
		names, addrs []string
		node         *corev1.Node
		want         Verdict
		says         string
	}{
		"its own":                        {[]string{"shop-1"}, []string{"10.0.0.7", "fd00::7"}, node, Approve, ""},
		"its own, as a mapped address":   {nil, []string{"::ffff:10.0.0.7", "10.0.0.9"}, node, Approve, ""},
		"its DNS name":                   {[]string{"shop-1", "shop-1.example.com"}, nil, node, Approve, ""},
		"no Node yet":                    {[]string{"shop-1"}, []string{"10.0.0.7"}, nil, Wait, "no Node"},
		"an address not there yet":       {nil, []string{"10.0.0.77"}, node, Wait, "not among the addresses"},
		"a name not there yet":           {[]string{"shop-one"}, nil, node, Wait, "not among the host names"},
		"another node's address":         {nil, []string{"10.0.0.8"}, node, Wait, "limpet node remove shop-2"},
		"the address of their router":    {nil, []string{"10.0.0.7", "198.51.100.1"}, node, Approve, ""},
		"another node's, as external":    {nil, []string{"10.0.0.88"}, node, Wait, "limpet node remove shop-2"},
		"another node's host name":       {[]string{"same"}, nil, node, Wait, "limpet node remove shop-2"},
		"another node's name":            {[]string{"shop-2"}, nil, node, Deny, "another node"},
		"the server's name":              {[]string{"mast"}, nil, node, Deny, "server"},
		"the apiserver's name":           {[]string{"kubernetes.default.svc"}, nil, node, Deny, "API server"},
		"the apiserver's other name":     {[]string{"api.example.com"}, nil, node, Deny, "API server"},
		"the apiserver's address":        {nil, []string{"10.0.0.1"}, node, Deny, "API server"},
		"the apiserver's mapped address": {nil, []string{"::ffff:10.0.0.1"}, node, Deny, "API server"},
		"loopback":                       {nil, []string{"127.0.0.1"}, node, Deny, "API server"},
		"another loopback":               {nil, []string{"127.0.0.2"}, node, Deny, "one machine"},
		"link-local":                     {nil, []string{"fe80::1"}, node, Deny, "one machine"},
		"multicast":                      {nil, []string{"224.0.0.1"}, node, Deny, "one machine"},
		"unspecified":                    {nil, []string{"0.0.0.0"}, node, Deny, "one machine"},
		"a Service's address":            {nil, []string{"10.43.0.10"}, node, Deny, "Services or pods"},
		"a pod's address":                {nil, []string{"10.42.1.1"}, node, Deny, "Services or pods"},
		"a pod's address, IPv6":          {nil, []string{"fd00:42::5"}, node, Deny, "Services or pods"},
		"a Service's name":               {[]string{"web.shop.svc.cluster.local"}, nil, node, Deny, "Services or pods"},
	} {
		r := inspected(t, servingWish("shop-1", c.names, c.addrs))
		d := r.Judge(testPolicy(), State{Now: now, Node: c.node, Nodes: all})
		if d.Verdict != c.want || !strings.Contains(d.Message, c.says) {
			t.Errorf("%s: %s (%s), want %s that says %q", name, d.Verdict, d.Message, c.want, c.says)
		}
		if d.Verdict != Wait {
			continue
		}
		if late := r.Judge(testPolicy(), State{Now: d.Until, Node: c.node, Nodes: all}); late.Verdict != Deny || late.Message != d.Message {
			t.Errorf("%s: after the wait: %+v", name, late)
		}
	}
}

func TestJudgeRecord(t *testing.T) {
	t.Parallel()
	long := now.Add(-keepGone)
	for name, c := range map[string]struct {
		record  noderecord.Record
		hasNode bool
		remove  bool
		gone    *time.Time // what is written
		again   time.Duration
	}{
		"a node that lives":        {record: noderecord.Record{Joined: long}, hasNode: true},
		"a node that came back":    {record: noderecord.Record{Joined: long, Gone: long}, hasNode: true, gone: new(time.Time)},
		"a node about to appear":   {record: noderecord.Record{Joined: now}, again: nodeAppears + time.Second},
		"a permission to rejoin":   {record: noderecord.Record{RejoinUntil: now.Add(time.Hour)}, again: time.Hour + time.Second},
		"a node that just went":    {record: noderecord.Record{Joined: long}, gone: &[]time.Time{now}[0], again: keepGone},
		"a node that went":         {record: noderecord.Record{Joined: long, Gone: now.Add(-time.Hour)}, again: keepGone - time.Hour + time.Second},
		"a node that is long gone": {record: noderecord.Record{Joined: long, Gone: long}, remove: true},
		"gone in the future":       {record: noderecord.Record{Joined: long, Gone: now.Add(time.Hour)}, gone: &[]time.Time{now}[0], again: keepGone},
	} {
		got := judgeRecord(c.record, c.hasNode, now)
		if got.remove != c.remove || got.change != (c.gone != nil) || got.again != c.again || c.gone != nil && !got.record.Gone.Equal(*c.gone) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
