package upgrade

import (
	"errors"
	"fmt"

	"github.com/limpetio/limpet/internal/release"
)

// Code is the exit code of limpet upgrade and limpet rollback.
type Code int

// The codes; docs/upgrade.md lists them for users. Up to NothingToGoBackTo
// nothing was changed and nothing begun.
const (
	BadSignature      Code = 30 // not signed by the key, or changed since
	WrongMachine      Code = 31 // of another architecture, or it does not run here
	NoSource          Code = 32 // it cannot be had
	WrongVersion      Code = 33 // Kubernetes does not support the step
	NoSpace           Code = 34
	NotReplaceable    Code = 35 // the installed limpet cannot be replaced or restarted
	UnderWay          Code = 36 // another upgrade is
	NothingToGoBackTo Code = 37

	GivenUp    Code = 38 // begun, and ended before anything was changed
	StillGoes  Code = 39 // this command ended, the upgrade goes on
	CameBack   Code = 40 // it failed, and the version of before is back
	CameUnwell Code = 41 // the same, and that is not well either
)

// ErrSame says that this very binary is installed: there is nothing to do.
var ErrSame = errors.New("it is installed already")

// Error tells why there is no upgrade, and what to do.
type Error struct {
	Code Code
	// What happened, and Do: what the reader can do about it.
	What, Do string
	// Err is the cause; nil if What says all.
	Err error
}

func (e *Error) Error() string {
	text := e.What
	if e.Err != nil {
		if text != "" {
			text += ": "
		}
		text += e.Err.Error()
	}
	if e.Do != "" {
		text += ". " + e.Do
	}
	return text
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// ExitCode is the exit code of the command.
func (e *Error) ExitCode() int { return int(e.Code) }

func refusal(code Code, do, what string, args ...any) *Error {
	return &Error{Code: code, What: fmt.Sprintf(what, args...), Do: do}
}

// fetchError sorts the errors of release.Fetch.
func fetchError(err error) *Error {
	switch {
	case errors.Is(err, release.ErrNoKey):
		return &Error{Code: BadSignature, Err: err, Do: "This limpet was not built as a release; --public-key names the key to trust"}
	case errors.Is(err, release.ErrSignature), errors.Is(err, release.ErrChecksum):
		return &Error{Code: BadSignature, Err: err, Do: "Nothing of it was used; get it again from where you trust"}
	case errors.Is(err, release.ErrNotListed):
		return &Error{Code: WrongMachine, Err: err}
	}
	return &Error{Code: NoSource, Err: err}
}

// Outcome is nil for an operation that succeeded, and otherwise the *Error that
// tells how it ended.
func (j Journal) Outcome() error {
	switch {
	case j.Phase == Confirmed:
		return nil
	case j.Phase == Abandoned:
		return &Error{Code: GivenUp, What: j.Sentence()}
	case j.Phase == RolledBack && j.Unwell != "":
		return &Error{Code: CameUnwell, What: j.Sentence(), Do: "See limpet status and limpet doctor"}
	case j.Phase == RolledBack:
		return &Error{Code: CameBack, What: j.Sentence()}
	}
	return &Error{Code: StillGoes, What: j.Sentence()}
}
