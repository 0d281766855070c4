package main

import (
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"
)

const (
	maxDuration = 60 * time.Second
	maxBurners  = 64
	maxAllocMB  = 4096
)

// sleep answers late, for tests of draining.
func (a *app) sleep(w http.ResponseWriter, r *http.Request) {
	d, ok := millis(w, r)
	if !ok {
		return
	}
	select {
	case <-time.After(d):
		reply(w, "slept "+d.String())
	case <-r.Context().Done():
	}
}

// burn keeps n goroutines busy, for tests of CPU limits. It answers with the
// number of rounds done, which falls when the CPU is throttled.
func (a *app) burn(w http.ResponseWriter, r *http.Request) {
	d, ok := millis(w, r)
	if !ok {
		return
	}
	n, ok := number(w, r, "n", 1, maxBurners)
	if !ok {
		return
	}
	end := time.Now().Add(d)
	rounds := make([]int, n)
	var wg sync.WaitGroup
	for i := range rounds {
		wg.Go(func() {
			for time.Now().Before(end) && r.Context().Err() == nil {
				rounds[i]++
			}
		})
	}
	wg.Wait()
	sum := 0
	for _, v := range rounds {
		sum += v
	}
	reply(w, "rounds "+strconv.Itoa(sum))
}

// alloc takes memory and writes to every page of it, for tests of memory
// limits; it stays taken until /free.
func (a *app) alloc(w http.ResponseWriter, r *http.Request) {
	mb, ok := number(w, r, "mb", 0, maxAllocMB)
	if !ok {
		return
	}
	total := 0
	for range mb {
		block := make([]byte, 1<<20)
		for i := 0; i < len(block); i += 4096 {
			block[i] = 1
		}
		a.mu.Lock()
		a.held = append(a.held, block)
		total = len(a.held)
		a.mu.Unlock()
	}
	reply(w, fmt.Sprintf("holding %d MiB", total))
}

func (a *app) free(w http.ResponseWriter, _ *http.Request) {
	a.mu.Lock()
	a.held = nil
	a.mu.Unlock()
	reply(w, "holding 0 MiB")
}

func millis(w http.ResponseWriter, r *http.Request) (time.Duration, bool) {
	n, ok := number(w, r, "ms", 1000, int(maxDuration.Milliseconds()))
	return time.Duration(n) * time.Millisecond, ok
}

// number reads the parameter key, 0 to most; it answers 400 itself when it is none.
func number(w http.ResponseWriter, r *http.Request, key string, otherwise, most int) (int, bool) {
	text := r.FormValue(key)
	if text == "" {
		return otherwise, true
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > most {
		http.Error(w, fmt.Sprintf("%s must be a number from 0 to %d, not %q", key, most, text), http.StatusBadRequest)
		return 0, false
	}
	return n, true
}
