package join

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// checkPath is where a server tells why it refuses a token; server/join
// describes it.
const checkPath = "/v1-limpet/token-check"

// maxVerdict bounds the answer, in bytes.
const maxVerdict = 4 << 10

// verdict is the answer.
type verdict struct {
	State   string    `json:"state"`
	Expired time.Time `json:"expired"`
}

// tokenState asks why the token was refused. It sends the token, which only a
// server that has been verified may see: l is such a link.
func (j *joiner) tokenState(ctx context.Context, l *link) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, j.base+checkPath, strings.NewReader(j.token.Bootstrap()))
	if err != nil {
		return fmt.Errorf("ask about the token: %w", err)
	}
	resp, err := l.anonymous.Do(req)
	if err != nil {
		return j.connection(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxVerdict))
	if err != nil {
		return j.connection(err)
	}
	if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= http.StatusInternalServerError {
		return &pending{stage: "token", err: fmt.Errorf("the server refuses the token and cannot say why now (HTTP %d)", resp.StatusCode)}
	}
	var v verdict
	if resp.StatusCode == http.StatusOK {
		// What cannot be read is no verdict, and judged as such.
		_ = json.Unmarshal(body, &v)
	}
	return j.judge(v)
}

func (j *joiner) judge(v verdict) error {
	const renew = "Make a new one on the server with `limpet token create`"
	switch v.State {
	case "expired":
		return refusal(ExpiredToken, renew, "the token (id %s) has expired at %s", j.token.ID(), day(v.Expired))
	case "valid":
		// It became so in the meantime, unless that lasts.
		return &pending{stage: "token", err: fmt.Errorf("the server refuses a token that it calls valid"),
			final: refusal(Refused, renew, "the server at %s refuses the token (id %s), although it calls it valid", j.base, j.token.ID())}
	}
	return refusal(UnknownToken, renew, "the server at %s does not know the token (id %s), or it was deleted", j.base, j.token.ID())
}
