package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	objectSize  = 1024 // bytes of a value
	smallSize   = 600  // of a Lease or a small status
	pageSize    = 500  // what the apiserver and its clients list at once
	updatedKeys = 100 * manyClients
	// fanOutKind is the row that measures when watchers know.
	fanOutKind = "watch"
)

// Every kind of keys has its own prefix.
const (
	listedPrefix  = "/registry/configmaps/default/"
	updatedPrefix = "/registry/deployments/default/"
	createdPrefix = "/registry/secrets/default/"
	watchedPrefix = "/registry/pods/default/"
)

func numbered(prefix string, i int) string { return fmt.Sprintf("%sobject-%08d", prefix, i) }
func listedKey(i int) string               { return numbered(listedPrefix, i) }
func updatedKey(i int) string              { return numbered(updatedPrefix, i) }

// prefixEnd is the end of a range of all keys with a prefix that ends in "/".
func prefixEnd(prefix string) []byte {
	end := []byte(prefix)
	end[len(end)-1]++
	return end
}

// content is the i-th value of a size. It does not compress well, and the next
// one is different.
func content(i, size int) []byte {
	source := rand.New(rand.NewPCG(uint64(i), 1))
	value := make([]byte, size)
	for j := 0; j+8 <= len(value); j += 8 {
		for n, k := source.Uint64(), 0; k < 8; n, k = n>>8, k+1 {
			value[j+k] = byte(n)
		}
	}
	return value
}

// storeRow is something that is measured.
type storeRow struct {
	kind    string // for programs, with the clients
	title   string
	clients int
	do      storeOperation
}

// storeOperation is what each of a number of clients does over and over.
type storeOperation func(s *storeServer, ctx context.Context, client, clients int) error

func (r storeRow) name() string { return fmt.Sprintf("%s.c%d", r.kind, r.clients) }

// on is the row's operation on a server.
func (r storeRow) on(s *storeServer) operation {
	return func(ctx context.Context, client, _ int) error { return r.do(s, ctx, client, r.clients) }
}

// storeRows are all rows in their order. What only reads comes first: then all
// servers hold the same keys. Later those have more that were faster.
func storeRows(objects int) []storeRow {
	update := func(size int) storeOperation {
		return func(s *storeServer, ctx context.Context, client, clients int) error {
			return s.update(ctx, client, clients, size)
		}
	}
	list := func(s *storeServer, ctx context.Context, client, _ int) error { return s.list(ctx, client, objects) }
	get := func(s *storeServer, ctx context.Context, client, _ int) error {
		return s.get(ctx, client, listedKey(rand.IntN(objects)))
	}
	kinds := []storeRow{
		{kind: "get", title: "get", do: get},
		{kind: "list", title: fmt.Sprintf("list %d of %d", pageSize, objects), do: list},
		{kind: "page", title: fmt.Sprintf("pages of %d of %d", pageSize, objects), do: (*storeServer).nextPage},
		{kind: "create", title: "create 1 KiB", do: (*storeServer).createNext},
		{kind: "update", title: "update 1 KiB", do: update(objectSize)},
		{kind: "update600", title: "update 600 B", do: update(smallSize)},
		{kind: "getupdate", title: "get + update 1 KiB", do: (*storeServer).getUpdate},
		{kind: fanOutKind, title: fmt.Sprintf("create → %d watchers", watcherCount), do: (*storeServer).createWatched},
	}
	var rows []storeRow
	for _, row := range kinds {
		for _, clients := range []int{1, manyClients} {
			row.clients = clients
			rows = append(rows, row)
		}
	}
	return rows
}

// create makes a key, as the apiserver does, and returns its revision.
func (s *storeServer) create(ctx context.Context, client int, key string, value []byte) (int64, error) {
	resp, err := s.kv[client].Txn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{modIs(key, 0)},
		Success: []*pb.RequestOp{put(key, value)},
	})
	if err != nil {
		return 0, err
	}
	if !resp.Succeeded {
		return 0, fmt.Errorf("create %s: it exists", key)
	}
	return resp.Header.Revision, nil
}

func (s *storeServer) createNext(ctx context.Context, client, _ int) error {
	n := int(s.created.Add(1))
	_, err := s.create(ctx, client, numbered(createdPrefix, n), content(n, objectSize))
	return err
}

// nextUpdate is the next of the keys that are a client's own, and a number that
// it has not had: a slow request must not find that another client, who has come
// round meanwhile, has changed its key.
func (s *storeServer) nextUpdate(client, clients int) (key, number int) {
	n := s.updated[client]
	s.updated[client]++
	return client + clients*(n%(updatedKeys/clients)), n*manyClients + client
}

// update changes the next key, whose revision is known: from a watch, say.
func (s *storeServer) update(ctx context.Context, client, clients, size int) error {
	i, n := s.nextUpdate(client, clients)
	revision, err := s.updateIf(ctx, client, updatedKey(i), s.revisions[i], content(n, size))
	s.revisions[i] = revision
	return err
}

// getUpdate reads the next key and changes it if nobody else has meanwhile.
func (s *storeServer) getUpdate(ctx context.Context, client, clients int) error {
	i, n := s.nextUpdate(client, clients)
	kv, err := s.read(ctx, client, updatedKey(i))
	if err != nil {
		return err
	}
	s.revisions[i], err = s.updateIf(ctx, client, updatedKey(i), kv.ModRevision, content(n, objectSize))
	return err
}

func (s *storeServer) updateIf(ctx context.Context, client int, key string, revision int64, value []byte) (int64, error) {
	resp, err := s.kv[client].Txn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{modIs(key, revision)},
		Success: []*pb.RequestOp{put(key, value)},
		Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte(key)}}}},
	})
	if err != nil {
		return 0, err
	}
	if !resp.Succeeded {
		return 0, fmt.Errorf("update %s: it is not at revision %d", key, revision)
	}
	return resp.Header.Revision, nil
}

func (s *storeServer) get(ctx context.Context, client int, key string) error {
	_, err := s.read(ctx, client, key)
	return err
}

func (s *storeServer) read(ctx context.Context, client int, key string) (*mvccpb.KeyValue, error) {
	resp, err := s.kv[client].Range(ctx, &pb.RangeRequest{Key: []byte(key)})
	if err != nil {
		return nil, err
	}
	if len(resp.Kvs) != 1 {
		return nil, fmt.Errorf("get %s: %d keys", key, len(resp.Kvs))
	}
	return resp.Kvs[0], nil
}

// list reads the first page.
func (s *storeServer) list(ctx context.Context, client, objects int) error {
	resp, err := s.kv[client].Range(ctx, &pb.RangeRequest{Key: []byte(listedPrefix), RangeEnd: prefixEnd(listedPrefix), Limit: pageSize})
	if err != nil {
		return err
	}
	if len(resp.Kvs) != pageSize || !resp.More || resp.Count != int64(objects) {
		return fmt.Errorf("list: %d keys of %d, more: %t", len(resp.Kvs), resp.Count, resp.More)
	}
	return nil
}

// nextPage goes on where the client's last page ended, as of the revision of the
// first, and begins anew after the last. It is the page that is measured: to go
// through all of them takes kine half a minute.
func (s *storeServer) nextPage(ctx context.Context, client, _ int) error {
	request := s.pages[client]
	if request == nil {
		request = &pb.RangeRequest{Key: []byte(listedPrefix), RangeEnd: prefixEnd(listedPrefix), Limit: pageSize}
		s.pages[client] = request
	}
	resp, err := s.kv[client].Range(ctx, request)
	if err != nil {
		return err
	}
	if len(resp.Kvs) == 0 {
		return fmt.Errorf("page from %s: it is empty", request.Key)
	}
	if !resp.More {
		s.pages[client] = nil
		return nil
	}
	if request.Revision == 0 {
		request.Revision = resp.Header.Revision
	}
	request.Key = append(slices.Clone(resp.Kvs[len(resp.Kvs)-1].Key), 0)
	return nil
}

// compact forgets all but the current values, and returns when that has begun.
// kine takes a revision for one of the future while its database is locked: it is
// asked again.
func (s *storeServer) compact(ctx context.Context) error {
	resp, err := s.kv[0].Range(ctx, &pb.RangeRequest{Key: []byte(updatedKey(0))})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, quietLimit)
	defer cancel()
	for {
		_, err := s.kv[0].Compact(ctx, &pb.CompactionRequest{Revision: resp.Header.Revision})
		if status.Code(err) != codes.OutOfRange || !sleep(ctx, quietPause) {
			return err
		}
	}
}

func modIs(key string, revision int64) *pb.Compare {
	return &pb.Compare{Key: []byte(key), Target: pb.Compare_MOD, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_ModRevision{ModRevision: revision}}
}

func put(key string, value []byte) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key), Value: value}}}
}
