package transfer

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/limpetio/limpet/datastore/sqlog"
)

// EtcdConfig says which etcd to import from.
type EtcdConfig struct {
	Endpoints          []string
	TLS                *tls.Config // nil for http and unix
	Username, Password string
	// Prefix selects keys; all if it is empty. Mind that the apiserver has a key
	// without a slash too: compact_rev_key.
	Prefix string
}

const (
	// etcdAnswers is how long the first answer may take, so that a wrong address
	// is an error and no endless wait.
	etcdAnswers = 15 * time.Second
	// pageBytes is what a page of keys should have, and pageKeys its bounds.
	pageBytes = 4 << 20
	pageKeys  = 2000
)

// ImportEtcd makes the Limpet datastore dst of an etcd that is running: all keys
// as of one revision, with their revisions and versions, and the leases with the
// TTL that they were granted. What is written to etcd afterwards does not come
// along: stop the apiservers first.
func ImportEtcd(ctx context.Context, cfg EtcdConfig, dst string, o Options) (Report, error) {
	from := strings.Join(cfg.Endpoints, ",")
	return importTo(ctx, from, dst, o, func(ctx context.Context, l *loader) error {
		client, err := clientv3.New(clientv3.Config{
			Endpoints: cfg.Endpoints, TLS: cfg.TLS, Username: cfg.Username, Password: cfg.Password,
			Context: ctx, DialTimeout: etcdAnswers, Logger: zap.NewNop(),
		})
		if err != nil {
			return fmt.Errorf("connect: %w", err)
		}
		defer client.Close()
		s := &etcdSource{Client: client, prefix: cfg.Prefix, loader: l}
		if s.spool, err = newSpool(l.dir); err != nil {
			return err
		}
		defer s.spool.close()
		err = s.copy(ctx)
		if errors.Is(err, rpctypes.ErrCompacted) {
			err = fmt.Errorf("%w: etcd compacted revision %d while it was read: try again, with the apiservers stopped: %w",
				ErrChanged, l.report.SourceRevision, err)
		}
		return err
	})
}

// etcdSource is an etcd that is being read.
type etcdSource struct {
	*clientv3.Client
	loader  *loader
	prefix  string
	spool   *spool
	entries []etcdEntry
}

// etcdEntry is a key whose value is in the spool.
type etcdEntry struct {
	key                                string
	mod, create, version, lease, value int64
	size                               int
}

func (s *etcdSource) copy(ctx context.Context) error {
	if err := s.read(ctx); err != nil {
		return err
	}
	if err := s.readLeases(ctx); err != nil {
		return err
	}
	// The log is sorted by revision; etcd gives keys in their order. (It can sort
	// by revision, but then reads everything for each page.) Which key of a
	// transaction was first it does not say.
	slices.SortFunc(s.entries, func(a, b etcdEntry) int {
		return cmp.Or(cmp.Compare(a.mod, b.mod), cmp.Compare(a.key, b.key))
	})
	last, sub := int64(0), 0
	for _, e := range s.entries {
		if sub++; e.mod != last {
			last, sub = e.mod, 0
		}
		if sub > sqlog.MaxSub || e.mod > sqlog.MaxRevision {
			return fmt.Errorf("%w: change %d of revision %d does not fit into the datastore", ErrForeign, sub, e.mod)
		}
		value, err := s.spool.get(e.value, e.size)
		if err != nil {
			return err
		}
		err = s.loader.put(ctx, sqlog.Record{
			ID: sqlog.ID(e.mod, sub), Key: e.key, CreateRevision: e.create, Version: e.version, Lease: e.lease, Value: value,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// read puts all values into the spool, page by page.
func (s *etcdSource) read(ctx context.Context) error {
	key, end := s.prefix, clientv3.GetPrefixRangeEnd(s.prefix)
	if s.prefix == "" {
		key, end = "\x00", "\x00"
	}
	revision, limit, bytes, count := int64(0), int64(100), int64(0), int64(0)
	for {
		resp, err := s.page(ctx, key, end, revision, limit)
		if err != nil {
			return fmt.Errorf("read keys: %w", err)
		}
		if revision == 0 {
			revision, count = resp.Header.Revision, resp.Count
			s.loader.report.SourceRevision = revision
			s.loader.expect(count)
		}
		for _, kv := range resp.Kvs {
			at, err := s.spool.add(kv.Value)
			if err != nil {
				return err
			}
			s.entries = append(s.entries, etcdEntry{
				key: string(kv.Key), mod: kv.ModRevision, create: kv.CreateRevision,
				version: kv.Version, lease: kv.Lease, value: at, size: len(kv.Value),
			})
			bytes += int64(len(kv.Key) + len(kv.Value))
		}
		if !resp.More || len(resp.Kvs) == 0 {
			break
		}
		key = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
		limit = max(1, min(pageKeys, pageBytes*int64(len(s.entries))/max(bytes, 1)))
	}
	if int64(len(s.entries)) != count {
		return fmt.Errorf("%w: etcd counted %d keys and gave %d", ErrDamaged, count, len(s.entries))
	}
	return s.spool.flush()
}

func (s *etcdSource) page(ctx context.Context, key, end string, revision, limit int64) (*clientv3.GetResponse, error) {
	request := []clientv3.OpOption{clientv3.WithRange(end), clientv3.WithLimit(limit)}
	if revision > 0 {
		return s.Get(ctx, key, append(request, clientv3.WithRev(revision))...)
	}
	first, cancel := context.WithTimeout(ctx, etcdAnswers)
	defer cancel()
	resp, err := s.Get(first, key, request...)
	if err != nil && ctx.Err() == nil && first.Err() != nil {
		err = fmt.Errorf("no answer within %s: %w; check the address and the certificates", etcdAnswers, err)
	}
	return resp, err
}

// readLeases asks for the TTL of all leases that there are, and of those that
// keys have.
func (s *etcdSource) readLeases(ctx context.Context) error {
	wanted := map[int64]bool{}
	all, err := s.Leases(ctx)
	switch {
	case err == nil:
		for _, lease := range all.Leases {
			wanted[int64(lease.ID)] = true
		}
	case status.Code(err) != codes.Unimplemented: // what is only like etcd need not have it
		return fmt.Errorf("list leases: %w", err)
	}
	for _, e := range s.entries {
		if e.lease != 0 {
			wanted[e.lease] = true
		}
	}
	for id := range wanted {
		resp, err := s.TimeToLive(ctx, clientv3.LeaseID(id))
		if err != nil {
			return fmt.Errorf("ask for lease %x: %w", id, err)
		}
		// One that is over by now has no TTL. Its keys are gone at the source;
		// here they go when it is over, after the shortest time that there is.
		s.loader.lease(id, max(resp.GrantedTTL, minTTL))
	}
	return nil
}

// minTTL is etcd's and Limpet's shortest lease, in seconds.
const minTTL = 2

// spool keeps values on the disk while they are brought into another order. Its
// file has no name: it is gone when the process is.
type spool struct {
	file *os.File
	w    *bufio.Writer
	size int64
}

func newSpool(dir string) (*spool, error) {
	f, err := os.CreateTemp(dir, "spool-*")
	if err != nil {
		return nil, fmt.Errorf("make a temporary file: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		_ = f.Close()
		return nil, err
	}
	return &spool{file: f, w: bufio.NewWriterSize(f, 1<<20)}, nil
}

func (s *spool) add(b []byte) (at int64, err error) {
	at = s.size
	n, err := s.w.Write(b)
	s.size += int64(n)
	return at, err
}

func (s *spool) flush() error { return s.w.Flush() }

func (s *spool) get(at int64, size int) ([]byte, error) {
	b := make([]byte, size)
	if _, err := s.file.ReadAt(b, at); err != nil && (size > 0 || !errors.Is(err, io.EOF)) {
		return nil, fmt.Errorf("read temporary file: %w", err)
	}
	return b, nil
}

func (s *spool) close() { _ = s.file.Close() }
