package bundle

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/limpetio/limpet/internal/helmchart"
	"github.com/limpetio/limpet/internal/version"
)

// ChartSource is a Helm chart that goes into a bundle, as the manifest that it renders to.
type ChartSource struct {
	// Source is a directory, the path of a packaged chart, or oci://… in a registry.
	Source string
	// Options of the rendering; its KubernetesVersion is this binary's.
	helmchart.Options
}

// Chart is a Helm chart of a bundle.
type Chart struct {
	Name       string `json:"name"`
	Version    string `json:"version"`
	AppVersion string `json:"appVersion,omitempty"`
	// Digest of the packaged chart, sha256:…; none for one that was a directory.
	Digest    string `json:"digest,omitempty"`
	Release   string `json:"release"`
	Namespace string `json:"namespace"`
	// Manifest is the base name of what it was rendered to.
	Manifest string `json:"manifest"`
}

// addChart renders a chart and puts the result among the manifests.
func (c *creator) addChart(ctx context.Context, source ChartSource) error {
	chart, err := loadChart(ctx, source.Source)
	if err != nil {
		return err
	}
	source.KubernetesVersion = version.KubernetesVersion
	source.Brought = c.namespaces
	r, err := chart.Render(ctx, source.Options)
	if err != nil {
		return err
	}
	base := r.Release + ".yaml"
	if err := c.putManifest(base, r.Manifest); err != nil {
		return fmt.Errorf("its manifest %s: %w", base, err)
	}
	c.charts = append(c.charts, Chart{
		Name: r.Name, Version: r.Version, AppVersion: printable(r.AppVersion), Digest: r.Digest,
		Release: r.Release, Namespace: r.Namespace, Manifest: base,
	})
	if len(r.LeftOut) > 0 {
		c.note("chart %s: left out, because they are hooks of Helm: %s", r.Name, strings.Join(r.LeftOut, ", "))
	}
	if r.Varies {
		c.note("chart %s: it gives something else each time it is rendered, passwords or certificates most likely: "+
			"set them by --set or --values, or each new bundle changes them", r.Name)
	}
	return nil
}

func loadChart(ctx context.Context, source string) (*helmchart.Chart, error) {
	if strings.HasPrefix(source, helmchart.Scheme) {
		return helmchart.Pull(ctx, source)
	}
	if _, err := os.Stat(source); err != nil {
		return nil, fmt.Errorf("%w (a chart of a registry begins with %s; one of a repository is got by helm pull first)", err, helmchart.Scheme)
	}
	return helmchart.Load(source)
}

func (c *creator) note(format string, args ...any) {
	if c.Note != nil {
		c.Note(printable(fmt.Sprintf(format, args...)))
	}
}

// printable takes out of foreign text what a terminal would obey.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, text)
}

var (
	chartName    = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,249}$`)
	chartVersion = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9.+_-]{0,127}$`)
)

// check is part of the index's; manifests are the base names of those it lists.
func (c Chart) check(manifests map[string]bool) error {
	digest, packed := strings.CutPrefix(c.Digest, "sha256:")
	switch {
	case !chartName.MatchString(c.Name):
		return formatError("%q is no name of a chart", c.Name)
	case !chartVersion.MatchString(c.Version):
		return formatError("the chart %s has no proper version: %q", c.Name, c.Version)
	case c.Digest != "" && (!packed || !sha256Hex.MatchString(digest)):
		return formatError("the chart %s has no proper digest: %q", c.Name, c.Digest)
	case !bundleName.MatchString(c.Release) || !bundleName.MatchString(c.Namespace):
		return formatError("the chart %s has the release %q and the namespace %q, which cannot be", c.Name, c.Release, c.Namespace)
	case len(c.AppVersion) > 250 || printable(c.AppVersion) != c.AppVersion:
		return formatError("the chart %s has no proper version of its application: %q", c.Name, c.AppVersion)
	case !manifests[c.Manifest]:
		return formatError("the manifest %q of the chart %s is not in it", c.Manifest, c.Name)
	}
	return nil
}
