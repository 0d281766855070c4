// Package helmchart turns a Helm chart into manifests, with Helm's own engine and for
// the Kubernetes of this binary, without a cluster: what `helm template` does. Nothing of
// Helm is needed, or left, where the manifests are applied: there are no releases, no
// hooks that run at a moment of their own, and no lookups.
package helmchart

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"text/template"

	"helm.sh/helm/v4/pkg/chart/common"
	commonutil "helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/loader/archive"
	chartv2 "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	chartutil "helm.sh/helm/v4/pkg/chart/v2/util"
	"helm.sh/helm/v4/pkg/engine"
	"helm.sh/helm/v4/pkg/strvals"
)

// DefaultNamespace is the namespace of a release that names none.
const DefaultNamespace = "default"

// maxValues is how large a file of values may be, in bytes.
const maxValues = 1 << 20

// Hooks says what becomes of objects that Helm would create at a moment of their own:
// before or after an installation or an upgrade. Those of tests, deletions and rollbacks
// never come; they have no meaning without Helm.
type Hooks string

// What becomes of hooks.
const (
	RefuseHooks Hooks = ""      // a chart with hooks is an error
	PlainHooks  Hooks = "plain" // they become objects like all others
	SkipHooks   Hooks = "skip"  // they are left out
)

// Options of a rendering.
type Options struct {
	// Release is the name of the release; empty: the chart's name.
	Release string
	// Namespace of all objects that name none; empty: DefaultNamespace. If it is not
	// one of Kubernetes' own, it is created, unless something else brings it.
	Namespace string
	// Brought are namespaces that something else brings: an object can come from one
	// place only.
	Brought []string
	// ValueFiles are paths of YAML files with values. Later ones win.
	ValueFiles []string
	// Set has values as in a.b=c,d=e. They win over files.
	Set []string
	// Hooks says what becomes of hooks.
	Hooks Hooks
	// KubernetesVersion that the manifests are for, as in v1.37.2.
	KubernetesVersion string
	// APIVersions that it has, as in apps/v1 and apps/v1/Deployment. Those that the
	// chart defines come on top.
	APIVersions []string
}

// Rendered is a chart as manifests.
type Rendered struct {
	// Name, Version and AppVersion are the chart's.
	Name, Version, AppVersion string
	// Digest of the packaged chart, sha256:…; empty for a directory.
	Digest             string
	Release, Namespace string
	// Manifest has all objects, as YAML documents. Definitions come first.
	Manifest []byte
	// LeftOut are the hooks that are not in it, as in "Job/migrate (pre-upgrade)".
	LeftOut []string
	// Varies reports that another rendering gave something else: the chart makes up
	// passwords or certificates, or asks for the time.
	Varies bool
}

// Chart is a chart that was read. Make one with Load or Pull.
type Chart struct {
	files  []*archive.BufferedFile
	digest string
}

var (
	chartName   = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,249}$`)
	releaseName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,51}[a-z0-9])?$`)
	namespaceRe = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
)

// Render renders the chart. Errors of templates name file and line, as Helm has them.
func (c *Chart) Render(ctx context.Context, o Options) (Rendered, error) {
	switch o.Hooks {
	case RefuseHooks, PlainHooks, SkipHooks:
	default:
		return Rendered{}, fmt.Errorf("hooks can be %s or %s, not %q", PlainHooks, SkipHooks, o.Hooks)
	}
	values, err := o.values()
	if err != nil {
		return Rendered{}, err
	}
	first, err := c.render(ctx, o, values)
	if err != nil {
		return Rendered{}, err
	}
	// Templates can change values and charts, so both are made anew.
	if values, err = o.values(); err != nil {
		return Rendered{}, err
	}
	second, err := c.render(ctx, o, values)
	if err != nil {
		return Rendered{}, fmt.Errorf("a second time: %w", err)
	}
	first.Varies = !bytes.Equal(first.Manifest, second.Manifest)
	return first, nil
}

func (c *Chart) render(ctx context.Context, o Options, values map[string]any) (Rendered, error) {
	chart, err := loader.LoadFiles(c.files)
	if err != nil {
		return Rendered{}, fmt.Errorf("not a chart: %w", err)
	}
	capabilities, err := o.complete(chart)
	if err != nil {
		return Rendered{}, err
	}
	if err := suits(chart, capabilities); err != nil {
		return Rendered{}, err
	}
	if err := chartutil.ProcessDependencies(chart, values); err != nil {
		return Rendered{}, fmt.Errorf("dependencies: %w", err)
	}
	definitions, err := o.definitions(chart)
	if err != nil {
		return Rendered{}, err
	}
	capabilities.APIVersions = append(capabilities.APIVersions, definedBy(definitions)...)
	release := common.ReleaseOptions{Name: o.Release, Namespace: o.Namespace, Revision: 1, IsInstall: true}
	all, err := commonutil.ToRenderValues(chart, values, release, capabilities)
	if err != nil {
		return Rendered{}, err
	}
	e := engine.Engine{CustomTemplateFuncs: template.FuncMap{"lookup": lookup}}
	files, err := e.RenderWithContext(ctx, chart, all)
	if err != nil {
		return Rendered{}, err
	}
	r := Rendered{
		Name: chart.Metadata.Name, Version: chart.Metadata.Version, AppVersion: chart.Metadata.AppVersion,
		Digest: c.digest, Release: o.Release, Namespace: o.Namespace,
	}
	return r, o.assemble(&r, definitions, files)
}

// complete fills in what is not given, and checks what is.
func (o *Options) complete(chart *chartv2.Chart) (*common.Capabilities, error) {
	if !chartName.MatchString(chart.Metadata.Name) {
		return nil, fmt.Errorf("its name %q is not of letters, digits, dots, - and _", chart.Metadata.Name)
	}
	if o.Release == "" {
		o.Release = strings.ToLower(chart.Metadata.Name)
	}
	if !releaseName.MatchString(o.Release) {
		return nil, fmt.Errorf("%q cannot be the name of a release: up to 53 lower-case letters, digits and -", o.Release)
	}
	if o.Namespace == "" {
		o.Namespace = DefaultNamespace
	}
	if !namespaceRe.MatchString(o.Namespace) {
		return nil, fmt.Errorf("%q cannot be the name of a namespace: up to 63 lower-case letters, digits and -", o.Namespace)
	}
	version, err := common.ParseKubeVersion(o.KubernetesVersion)
	if err != nil {
		return nil, fmt.Errorf("version of Kubernetes: %w", err)
	}
	return &common.Capabilities{KubeVersion: *version, APIVersions: slices.Clone(o.APIVersions), HelmVersion: common.DefaultCapabilities.HelmVersion}, nil
}

// suits refuses charts that cannot be installed, or not here, or not as they are.
func suits(chart *chartv2.Chart, capabilities *common.Capabilities) error {
	meta := chart.Metadata
	if meta.Type != "" && meta.Type != "application" {
		return fmt.Errorf("%s is a chart of the type %s: only applications can be installed", meta.Name, meta.Type)
	}
	version := capabilities.KubeVersion.String()
	if meta.KubeVersion != "" && !chartutil.IsCompatibleRange(meta.KubeVersion, version) {
		return fmt.Errorf("%s %s wants Kubernetes %s, and this limpet is %s", meta.Name, meta.Version, meta.KubeVersion, version)
	}
	var missing []string
	for _, want := range meta.Dependencies {
		found := false
		for _, have := range chart.Dependencies() {
			found = found || have.Name() == want.Name
		}
		if !found {
			missing = append(missing, want.Name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("its dependencies are not in charts/: %s (helm dependency build puts them there)", strings.Join(missing, ", "))
	}
	return nil
}

// values merges files and settings.
func (o *Options) values() (map[string]any, error) {
	values := map[string]any{}
	for _, path := range o.ValueFiles {
		info, err := os.Stat(path)
		if err != nil {
			return nil, fmt.Errorf("values: %w", err)
		}
		if info.Size() > maxValues {
			return nil, fmt.Errorf("values %s: it has %d bytes; %d are allowed", path, info.Size(), maxValues)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("values: %w", err)
		}
		more, err := loader.LoadValues(bytes.NewReader(data))
		if err != nil {
			return nil, fmt.Errorf("values %s: %w", path, err)
		}
		values = loader.MergeMaps(values, more)
	}
	for _, setting := range o.Set {
		if err := strvals.ParseInto(setting, values); err != nil {
			return nil, fmt.Errorf("setting %q: %w", setting, err)
		}
	}
	return values, nil
}

// lookup takes the place of a question to the cluster. An empty answer, as helm
// template gives it, would let a chart decide wrongly and say nothing.
func lookup(_, kind, namespace, name string) (map[string]any, error) {
	return nil, fmt.Errorf("the chart asks the cluster for a %s %s/%s (lookup), and there is none when it is rendered for a bundle: "+
		"if no answer is right, use helm template and take its output as a manifest", kind, namespace, name)
}

var errTooLarge = errors.New("the chart is too large")
