package etcdapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/limpetio/limpet/datastore"
)

func keysOf(kvs []*mvccpb.KeyValue) string {
	var keys []string
	for _, kv := range kvs {
		keys = append(keys, string(kv.Key))
	}
	return strings.Join(keys, " ")
}

func TestRange(t *testing.T) {
	t.Parallel()
	f := serve(t, datastore.Options{}, Options{})
	// Revisions:    2         3         4         5 (b again)    6: c is deleted
	for _, kv := range []string{"a=3", "b=2", "c=1", "b=9"} {
		key, value, _ := strings.Cut(kv, "=")
		f.put(t, key, value)
	}
	f.del(t, "c")
	f.put(t, "d", "0")
	all := clientv3.WithFromKey()

	tests := []struct {
		name  string
		key   string
		opts  []clientv3.OpOption
		keys  string
		count int64
		more  bool
		err   error
	}{
		{name: "one", key: "a", keys: "a", count: 1},
		{name: "none", key: "x"},
		{name: "deleted", key: "c"},
		{name: "before it was deleted", key: "c", opts: []clientv3.OpOption{clientv3.WithRev(5)}, keys: "c", count: 1},
		{name: "all", key: "\x00", opts: []clientv3.OpOption{all}, keys: "a b d", count: 3},
		{name: "from", key: "b", opts: []clientv3.OpOption{all}, keys: "b d", count: 2},
		{name: "range", key: "a", opts: []clientv3.OpOption{clientv3.WithRange("d")}, keys: "a b", count: 2},
		{name: "limit", key: "a", opts: []clientv3.OpOption{all, clientv3.WithLimit(2)}, keys: "a b", count: 3, more: true},
		{name: "limit of all", key: "a", opts: []clientv3.OpOption{all, clientv3.WithLimit(3)}, keys: "a b d", count: 3},
		{name: "serializable", key: "a", opts: []clientv3.OpOption{clientv3.WithSerializable()}, keys: "a", count: 1},
		{name: "count only", key: "a", opts: []clientv3.OpOption{all, clientv3.WithCountOnly()}, count: 3},
		{name: "old", key: "a", opts: []clientv3.OpOption{all, clientv3.WithRev(4)}, keys: "a b c", count: 3},
		{name: "old, limited", key: "a", opts: []clientv3.OpOption{all, clientv3.WithRev(4), clientv3.WithLimit(1)}, keys: "a", count: 3, more: true},
		{name: "descending", key: "a", opts: []clientv3.OpOption{all, clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend)}, keys: "d b a", count: 3},
		{name: "by value", key: "a", opts: []clientv3.OpOption{all, clientv3.WithSort(clientv3.SortByValue, clientv3.SortAscend)}, keys: "d a b", count: 3},
		{name: "by version", key: "a", opts: []clientv3.OpOption{all, clientv3.WithSort(clientv3.SortByVersion, clientv3.SortDescend), clientv3.WithLimit(1)}, keys: "b", count: 3, more: true},
		{name: "last created", key: "a", opts: []clientv3.OpOption{all, clientv3.WithSort(clientv3.SortByCreateRevision, clientv3.SortDescend)}, keys: "d b a", count: 3},
		{name: "last changed", key: "a", opts: []clientv3.OpOption{all, clientv3.WithSort(clientv3.SortByModRevision, clientv3.SortAscend)}, keys: "a b d", count: 3},
		{name: "min mod", key: "a", opts: []clientv3.OpOption{all, clientv3.WithMinModRev(5)}, keys: "b d", count: 3},
		{name: "max mod", key: "a", opts: []clientv3.OpOption{all, clientv3.WithMaxModRev(5)}, keys: "a b", count: 3},
		{name: "min create", key: "a", opts: []clientv3.OpOption{all, clientv3.WithMinCreateRev(4)}, keys: "d", count: 3},
		{name: "max create", key: "a", opts: []clientv3.OpOption{all, clientv3.WithMaxCreateRev(2)}, keys: "a", count: 3},
		{name: "future", key: "a", opts: []clientv3.OpOption{clientv3.WithRev(100)}, err: rpctypes.ErrFutureRev},
		{name: "no key", key: "", err: rpctypes.ErrEmptyKey},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			resp, err := f.Get(soon(t), tt.key, tt.opts...)
			if !errors.Is(err, tt.err) {
				t.Fatalf("got %v, want %v", err, tt.err)
			}
			if err != nil {
				return
			}
			if keysOf(resp.Kvs) != tt.keys || resp.Count != tt.count || resp.More != tt.more {
				t.Errorf("got %q, count %d, more %v", keysOf(resp.Kvs), resp.Count, resp.More)
			}
			if resp.Header.Revision != 7 {
				t.Errorf("header has revision %d", resp.Header.Revision)
			}
		})
	}

	t.Run("keys only", func(t *testing.T) {
		resp, err := f.Get(soon(t), "b", clientv3.WithKeysOnly())
		if err != nil {
			t.Fatal(err)
		}
		want := &mvccpb.KeyValue{Key: []byte("b"), CreateRevision: 3, ModRevision: 5, Version: 2}
		if !proto.Equal(resp.Kvs[0], want) {
			t.Errorf("got %v, want %v", resp.Kvs[0], want)
		}
	})
}

func TestCompact(t *testing.T) {
	t.Parallel()
	f := serve(t, datastore.Options{}, Options{})
	for i := range 10 {
		f.put(t, "a", fmt.Sprint(i))
	}
	resp, err := f.Compact(soon(t), 8, clientv3.WithCompactPhysical())
	if err != nil || resp.Header.Revision != 11 || resp.Header.MemberId == 0 {
		t.Fatalf("%v, %v", resp, err)
	}
	for revision, want := range map[int64]error{7: rpctypes.ErrCompacted, 8: nil, 11: nil, 12: rpctypes.ErrFutureRev} {
		if _, err := f.Get(soon(t), "a", clientv3.WithRev(revision)); !errors.Is(err, want) {
			t.Errorf("revision %d: got %v, want %v", revision, err, want)
		}
	}
	if _, err := f.Compact(soon(t), 8); !errors.Is(err, rpctypes.ErrCompacted) {
		t.Errorf("again: %v", err)
	}
	if _, err := f.Compact(soon(t), 100); !errors.Is(err, rpctypes.ErrFutureRev) {
		t.Errorf("the future: %v", err)
	}
}

func TestPutAndDelete(t *testing.T) {
	t.Parallel()
	f := serve(t, datastore.Options{}, Options{})
	kv := pb.NewKVClient(f.conn(t))
	put := func(r *pb.PutRequest) (*pb.PutResponse, error) { return kv.Put(soon(t), r) }
	key := []byte("a")

	for _, tt := range []struct {
		r   *pb.PutRequest
		err error
	}{
		{&pb.PutRequest{}, rpctypes.ErrGRPCEmptyKey},
		{&pb.PutRequest{Key: key, Value: key, IgnoreValue: true}, rpctypes.ErrGRPCValueProvided},
		{&pb.PutRequest{Key: key, Lease: 1, IgnoreLease: true}, rpctypes.ErrGRPCLeaseProvided},
		{&pb.PutRequest{Key: key, IgnoreValue: true}, rpctypes.ErrGRPCKeyNotFound},
		{&pb.PutRequest{Key: key, Lease: 7}, rpctypes.ErrGRPCLeaseNotFound},
	} {
		if _, err := put(tt.r); !errors.Is(err, tt.err) {
			t.Errorf("%v: got %v, want %v", tt.r, err, tt.err)
		}
	}

	f.put(t, "a", "1")
	resp, err := put(&pb.PutRequest{Key: key, Value: []byte("2"), PrevKv: true})
	if err != nil || string(resp.PrevKv.Value) != "1" || resp.Header.Revision != 3 || resp.Header.ClusterId == 0 {
		t.Errorf("put: %v, %v", resp, err)
	}
	if _, err := put(&pb.PutRequest{Key: key, IgnoreValue: true}); err != nil {
		t.Error(err)
	}
	got, err := f.Get(soon(t), "a")
	if err != nil || string(got.Kvs[0].Value) != "2" || got.Kvs[0].Version != 3 {
		t.Errorf("get: %v, %v", got, err)
	}
	f.put(t, "b", "3")
	gone, err := f.Delete(soon(t), "a", clientv3.WithFromKey(), clientv3.WithPrevKV())
	if err != nil || gone.Deleted != 2 || keysOf(gone.PrevKvs) != "a b" || gone.Header.Revision != 6 {
		t.Errorf("delete: %v, %v", gone, err)
	}
	gone, err = f.Delete(soon(t), "a")
	if err != nil || gone.Deleted != 0 || gone.Header.Revision != 6 {
		t.Errorf("delete what is not there: %v, %v", gone, err)
	}
}

// What pieces merge to is what Range answers.
func TestRangeStream(t *testing.T) {
	t.Parallel()
	f := serve(t, datastore.Options{}, Options{})
	kv := pb.NewKVClient(f.conn(t))
	const keys = 1200
	for i := range keys {
		f.put(t, fmt.Sprintf("/k/%04d", i), strings.Repeat("v", i*3))
	}
	f.put(t, "/z", "z")
	for name, r := range map[string]*pb.RangeRequest{
		"all":         {},
		"limit":       {Limit: 700},
		"limit of 1":  {Limit: 1},
		"exact limit": {Limit: keys},
		"old":         {Revision: 600},
		"old limit":   {Revision: 600, Limit: 300},
		"keys only":   {KeysOnly: true},
		"count only":  {CountOnly: true},
		"descending":  {SortOrder: pb.RangeRequest_DESCEND, Limit: 5},
		"filtered":    {MinModRevision: 1000, Limit: 5},
		"future":      {Revision: 1 << 40},
	} {
		t.Run(name, func(t *testing.T) {
			r.Key, r.RangeEnd = []byte("/k/"), []byte("/k0")
			want, wantErr := kv.Range(soon(t), r)
			got, pieces, err := rangeStream(soon(t), kv, r)
			if !errors.Is(err, wantErr) {
				t.Fatalf("got %v, want %v", err, wantErr)
			}
			if err == nil && !proto.Equal(got, want) {
				t.Errorf("got %s…, want %s…", head(got), head(want))
			}
			if name == "all" && pieces < 2 {
				t.Errorf("%d bytes came in %d pieces", proto.Size(got), pieces)
			}
		})
	}
	single := &pb.RangeRequest{Key: []byte("/z")}
	if got, _, err := rangeStream(soon(t), kv, single); err != nil || keysOf(got.Kvs) != "/z" || got.Count != 1 {
		t.Errorf("one key: %v, %v", got, err)
	}
}

func rangeStream(ctx context.Context, kv pb.KVClient, r *pb.RangeRequest) (merged *pb.RangeResponse, pieces int, err error) {
	stream, err := kv.RangeStream(ctx, r)
	if err != nil {
		return nil, 0, err
	}
	for merged = (&pb.RangeResponse{}); ; pieces++ {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return merged, pieces, nil
		}
		if err != nil {
			return nil, pieces, err
		}
		proto.Merge(merged, resp.RangeResponse)
	}
}

func head(m proto.Message) []byte {
	b := fmt.Append(nil, m)
	return bytes.Clone(b[:min(len(b), 200)])
}

// The transactions that the apiserver sends.
func TestTxnOfApiserver(t *testing.T) {
	t.Parallel()
	f := serve(t, datastore.Options{}, Options{})
	key := "/registry/pods/default/a"
	create := func(value string) *clientv3.TxnResponse {
		return f.txn(t, clientv3.Compare(clientv3.ModRevision(key), "=", 0), clientv3.OpPut(key, value), nil)
	}
	update := func(revision int64, value string) *clientv3.TxnResponse {
		get := clientv3.OpGet(key)
		return f.txn(t, clientv3.Compare(clientv3.ModRevision(key), "=", revision), clientv3.OpPut(key, value), &get)
	}
	remove := func(revision int64) *clientv3.TxnResponse {
		get := clientv3.OpGet(key)
		return f.txn(t, clientv3.Compare(clientv3.ModRevision(key), "=", revision), clientv3.OpDelete(key, clientv3.WithPrevKV()), &get)
	}

	created := create("1")
	if !created.Succeeded || created.Header.Revision != 2 || created.Header.MemberId == 0 {
		t.Fatalf("create: %v", created)
	}
	if again := create("x"); again.Succeeded || again.Header.Revision != 2 {
		t.Errorf("create again: %v", again)
	}
	if late := update(1, "x"); late.Succeeded || string(late.Responses[0].GetResponseRange().Kvs[0].Value) != "1" {
		t.Errorf("update of what has changed: %v", late)
	}
	if ok := update(2, "2"); !ok.Succeeded || ok.Header.Revision != 3 || ok.Responses[0].GetResponsePut().Header.Revision != 3 {
		t.Errorf("update: %v", ok)
	}
	if late := remove(2); late.Succeeded || late.Responses[0].GetResponseRange().Kvs[0].ModRevision != 3 {
		t.Errorf("delete of what has changed: %v", late)
	}
	if ok := remove(3); !ok.Succeeded || string(ok.Responses[0].GetResponseDeleteRange().PrevKvs[0].Value) != "2" {
		t.Errorf("delete: %v", ok)
	}
	if recreated := create("3"); recreated.Header.Revision != 5 {
		t.Errorf("create after delete: %v", recreated)
	}

	// Its compactor: a comparison by version.
	for version := range int64(3) {
		get := clientv3.OpGet("compact_rev_key")
		resp := f.txn(t, clientv3.Compare(clientv3.Version("compact_rev_key"), "=", version), clientv3.OpPut("compact_rev_key", "5"), &get)
		if !resp.Succeeded {
			t.Errorf("version %d: %v", version, resp)
		}
		resp = f.txn(t, clientv3.Compare(clientv3.Version("compact_rev_key"), "=", version), clientv3.OpPut("compact_rev_key", "5"), &get)
		if kv := resp.Responses[0].GetResponseRange().Kvs[0]; resp.Succeeded || kv.Version != version+1 {
			t.Errorf("the slower of two: %v", resp)
		}
	}
}

func (f *fixture) txn(t *testing.T, cmp clientv3.Cmp, then clientv3.Op, otherwise *clientv3.Op) *clientv3.TxnResponse {
	t.Helper()
	txn := f.Txn(soon(t)).If(cmp).Then(then)
	if otherwise != nil {
		txn = txn.Else(*otherwise)
	}
	resp, err := txn.Commit()
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func TestTxn(t *testing.T) {
	t.Parallel()
	f := serve(t, datastore.Options{}, Options{})
	f.put(t, "a", "1")
	f.put(t, "b", "1")
	lease, err := f.Grant(soon(t), 600)
	if err != nil {
		t.Fatal(err)
	}
	f.put(t, "l", "1", clientv3.WithLease(lease.ID)) // revision 4

	compares := map[string]struct {
		cmp  clientv3.Cmp
		want bool
	}{
		"value":                 {clientv3.Compare(clientv3.Value("a"), "=", "1"), true},
		"value, greater":        {clientv3.Compare(clientv3.Value("a"), ">", "0"), true},
		"value of nothing":      {clientv3.Compare(clientv3.Value("x"), "!=", "1"), false},
		"version":               {clientv3.Compare(clientv3.Version("a"), "<", 2), true},
		"create":                {clientv3.Compare(clientv3.CreateRevision("b"), "=", 3), true},
		"create of nothing":     {clientv3.Compare(clientv3.CreateRevision("x"), "=", 0), true},
		"mod":                   {clientv3.Compare(clientv3.ModRevision("b"), "!=", 3), false},
		"lease":                 {clientv3.Compare(clientv3.LeaseValue("l"), "=", lease.ID), true},
		"range":                 {clientv3.Compare(clientv3.Value("a"), "=", "1").WithRange("c"), true},
		"range, one of them":    {clientv3.Compare(clientv3.CreateRevision("a"), "=", 2).WithRange("c"), false},
		"prefix without a key":  {clientv3.Compare(clientv3.CreateRevision("y"), "=", 0).WithPrefix(), true},
		"prefix that has a key": {clientv3.Compare(clientv3.CreateRevision("a"), "=", 0).WithPrefix(), false},
	}
	for name, tt := range compares {
		resp, err := f.Txn(soon(t)).If(tt.cmp).Commit()
		if err != nil || resp.Succeeded != tt.want || resp.Header.Revision != 4 {
			t.Errorf("%s: %v, %v", name, resp, err)
		}
	}

	// Each operation sees those before it, and all are one revision. Comparisons,
	// also those within, are made before.
	resp, err := f.Txn(soon(t)).Then(
		clientv3.OpPut("n", "1"), clientv3.OpGet("n"), clientv3.OpDelete("a"), clientv3.OpGet("a", clientv3.WithCountOnly()),
		clientv3.OpTxn([]clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision("n"), "=", 0)}, []clientv3.Op{clientv3.OpPut("m", "2")}, nil),
	).Commit()
	if err != nil {
		t.Fatal(err)
	}
	if r := resp.Responses; string(r[1].GetResponseRange().Kvs[0].Value) != "1" || r[2].GetResponseDeleteRange().Deleted != 1 ||
		r[3].GetResponseRange().Count != 0 || !r[4].GetResponseTxn().Succeeded || resp.Header.Revision != 5 {
		t.Errorf("got %v", resp)
	}
	got, err := f.Get(soon(t), "m", clientv3.WithPrefix())
	if err != nil || got.Kvs[0].ModRevision != 5 {
		t.Errorf("got %v, %v", got, err)
	}

	failures := map[string]struct {
		ops []clientv3.Op
		err error
	}{
		"two puts":         {[]clientv3.Op{clientv3.OpPut("q", "1"), clientv3.OpPut("q", "2")}, rpctypes.ErrDuplicateKey},
		"put and delete":   {[]clientv3.Op{clientv3.OpPut("q", "1"), clientv3.OpDelete("p", clientv3.WithRange("r"))}, rpctypes.ErrDuplicateKey},
		"second one fails": {[]clientv3.Op{clientv3.OpPut("q", "1"), clientv3.OpPut("r", "2", clientv3.WithLease(99))}, rpctypes.ErrLeaseNotFound},
		"too many":         {slicesRepeat(clientv3.OpGet("q"), 129), rpctypes.ErrTooManyOps},
	}
	for name, tt := range failures {
		if _, err := f.Txn(soon(t)).Then(tt.ops...).Commit(); !errors.Is(err, tt.err) {
			t.Errorf("%s: got %v, want %v", name, err, tt.err)
		}
	}
	if got, err := f.Get(soon(t), "q"); err != nil || got.Count != 0 || got.Header.Revision != 5 {
		t.Errorf("a transaction that failed left %v, %v", got, err)
	}
}

func slicesRepeat(op clientv3.Op, n int) []clientv3.Op {
	ops := make([]clientv3.Op, n)
	for i := range ops {
		ops[i] = op
	}
	return ops
}
