package main

import (
	"fmt"
	"os"
	"time"
)

// config is what the environment says; see the command's documentation.
type config struct {
	port          string
	pod           string
	host          string
	version       string
	readyDelay    time.Duration
	shutdownDelay time.Duration
}

func readConfig(lookup func(string) (string, bool)) (config, error) {
	get := func(key, otherwise string) string {
		if v, ok := lookup(key); ok && v != "" {
			return v
		}
		return otherwise
	}
	host, err := os.Hostname()
	if err != nil {
		return config{}, fmt.Errorf("host name: %w", err)
	}
	c := config{
		port:    get("PORT", "8080"),
		host:    host,
		pod:     get("POD_NAME", host),
		version: get("HTTPD_VERSION", "dev"),
	}
	if c.readyDelay, err = time.ParseDuration(get("READY_DELAY", "0s")); err != nil {
		return config{}, fmt.Errorf("READY_DELAY: %w", err)
	}
	if c.shutdownDelay, err = time.ParseDuration(get("SHUTDOWN_DELAY", "0s")); err != nil {
		return config{}, fmt.Errorf("SHUTDOWN_DELAY: %w", err)
	}
	return c, nil
}
