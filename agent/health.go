package agent

import (
	"context"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/limpetio/limpet/internal/probe"
)

// waitHealthz returns nil when a component's /healthz answers 200. The
// components have no signal for it, so it asks, in short steps while starting.
func waitHealthz(ctx context.Context, host string, port int) error {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Second}
	url := "http://" + net.JoinHostPort(host, strconv.Itoa(port)) + "/healthz"
	return probe.Await(ctx, client, url, 20*time.Millisecond)
}
