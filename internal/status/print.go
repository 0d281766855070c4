package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// ErrUnhealthy is returned by Print when something is not as it should be.
var ErrUnhealthy = errors.New("limpet is running, but not everything is well")

// Print fetches the report and prints it for a person, or as JSON.
func Print(ctx context.Context, w io.Writer, path string, asJSON bool) error {
	r, err := Fetch(ctx, path)
	if err != nil {
		return err
	}
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		err = enc.Encode(r)
	} else {
		err = r.write(w, time.Now())
	}
	if err == nil && len(r.Problems()) > 0 {
		return ErrUnhealthy
	}
	return err
}

func (r Report) write(w io.Writer, now time.Time) error {
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintf(tw, "limpet %s (Kubernetes %s), %s on node %s, pid %d, running for %s\n\n",
		r.Version, r.Kubernetes, r.Mode, r.Node, r.PID, age(now, r.Started))
	fmt.Fprintln(tw, "COMPONENT\tSTATE\tFOR\tREADY AFTER\tRESTARTS")
	for _, c := range r.Components {
		readyAfter := "-"
		if c.ReadyAfter > 0 {
			readyAfter = fmt.Sprintf("%.2fs", c.ReadyAfter.Seconds())
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%d\n", c.Name, c.Phase, age(now, c.Since), readyAfter, c.Restarts)
	}
	writeDatastore(tw, r.Datastore, now)
	writeFiles(tw, "MANIFEST", r.Manifests, now)
	writeFiles(tw, "IMAGE FILE", r.Images, now)
	if r.DNS != nil {
		fmt.Fprintf(tw, "\nDNS upstreams: %v\n", r.DNS.Upstreams)
	}
	writeNode(tw, r, now)
	writeTunnels(tw, r)
	writeUpgrade(tw, r.Upgrade, now)
	problems := r.Problems()
	if len(problems) == 0 {
		fmt.Fprintln(tw, "\nAll is well.")
		return tw.Flush()
	}
	fmt.Fprintln(tw, "\nProblems:")
	for _, p := range problems {
		fmt.Fprintln(tw, " - "+p)
	}
	return tw.Flush()
}

func writeDatastore(w io.Writer, d *Datastore, now time.Time) {
	if d == nil {
		return
	}
	fmt.Fprintf(w, "\nDatastore: %d keys at revision %d, %.2f MiB, and %.2f MiB of log\n",
		d.Keys, d.Revision, mebi(d.FileBytes), mebi(d.WALBytes))
	if !d.Clean {
		fmt.Fprintln(w, "It was not closed properly the last time; it was checked, and is intact.")
	}
	s := d.Snapshots
	switch {
	case s == nil:
	case s.Newest == nil:
		fmt.Fprintf(w, "Snapshots: none yet in %s\n", s.Dir)
	default:
		fmt.Fprintf(w, "Snapshots: %d in %s, the newest %s old, of revision %d\n", s.Count, s.Dir, age(now, s.Current), s.Newest.Revision)
	}
}

func mebi(bytes int64) float64 { return float64(bytes) / (1 << 20) }

func writeFiles(w io.Writer, title string, files []File, now time.Time) {
	if len(files) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s\tSTATE\tFOR\n", title)
	for _, f := range files {
		fmt.Fprintf(w, "%s\t%s\t%s\n", f.Name, f.State, age(now, f.Since))
	}
}

// age prints a duration as a person says it: 42s, 5m, 3h12m, 4d.
func age(now, then time.Time) string {
	d := now.Sub(then).Round(time.Second)
	switch {
	case then.IsZero():
		return "-"
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%dd", int(d.Hours())/24)
	}
}
