package datastore

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/limpetio/limpet/datastore/sqlog"
)

// StatusOf is an error as etcd's clients understand it: what etcd itself answers
// stays as it is, and what the disk says keeps its words.
func StatusOf(err error) error {
	if err == nil {
		return nil
	}
	var known interface{ GRPCStatus() *status.Status }
	if errors.As(err, &known) {
		return known.GRPCStatus().Err()
	}
	code := codes.Unknown
	switch {
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	case errors.Is(err, sqlog.ErrNoSpace):
		code = codes.ResourceExhausted
	case errors.Is(err, sqlog.ErrCorrupt):
		code = codes.DataLoss
	case errors.Is(err, errClosed), errors.Is(err, sqlog.ErrIO), errors.Is(err, sqlog.ErrBusy), errors.Is(err, sqlog.ErrReadOnly):
		code = codes.Unavailable
	}
	return status.Error(code, "limpet datastore: "+err.Error())
}
