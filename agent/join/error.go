package join

import "fmt"

// Code is the exit code of limpet agent when it cannot join.
type Code int

// The codes; docs/joining.md lists them for users.
const (
	BadToken     Code = 20 // the token is malformed
	WrongCA      Code = 21 // the server's authority is not the one that the token names
	UnknownToken Code = 22 // the server does not know the token, or it was revoked
	ExpiredToken Code = 23
	NoServer     Code = 24 // something else answers at the URL
	ForeignCert  Code = 25 // the server's certificate is of another authority
	PlainHTTP    Code = 26 // the URL says http
	WrongClock   Code = 27 // by this machine's clock the certificate is not valid
	NameTaken    Code = 28 // another machine has the node's name
	Refused      Code = 29 // any other refusal
)

// Error tells why this machine cannot join, and what to do. Its text holds no
// secret.
type Error struct {
	Code Code
	// What happened, and Do: what the reader can do about it.
	What, Do string
	// Err is the cause; nil if What says all.
	Err error
	// denied: the server looked at the request of this machine and keeps nothing
	// of it.
	denied bool
}

func (e *Error) Error() string {
	text := e.What
	if e.Err != nil {
		text += ": " + e.Err.Error()
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

// pending is an error that may go away by itself when the server has started
// or somebody has acted. If final is set, it is given up when it has lasted for
// the time of grace; otherwise it is waited for without end.
type pending struct {
	stage string // what is waited for; the back-off begins anew when it changes
	err   error
	final *Error
}

func (p *pending) Error() string { return p.err.Error() }
func (p *pending) Unwrap() error { return p.err }
