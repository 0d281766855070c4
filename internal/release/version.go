package release

import (
	"fmt"
	"regexp"

	"k8s.io/apimachinery/pkg/util/version"
)

// versionName is what a version looks like in names of directories and URLs:
// v1.2.3, v1.2.3-rc.1, v1.2.3-14-gabcdef012345-dirty.
var versionName = regexp.MustCompile(`^v[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$`)

// CheckVersion says whether name is a version's name, with its leading v.
func CheckVersion(name string) error {
	if !versionName.MatchString(name) {
		return fmt.Errorf("%q is no version: one looks like v1.2.3", name)
	}
	if _, err := version.ParseSemantic(name); err != nil {
		return fmt.Errorf("%q is no version: %w", name, err)
	}
	return nil
}

// CompareVersions is negative when a is older than b, positive when it is
// newer, and zero when neither precedes the other.
func CompareVersions(a, b string) (int, error) {
	if err := CheckVersion(a); err != nil {
		return 0, err
	}
	if err := CheckVersion(b); err != nil {
		return 0, err
	}
	return version.MustParseSemantic(a).Compare(b)
}

// SameMinor reports whether both are of one minor version: v1.2.3 and v1.2.9.
func SameMinor(a, b string) (bool, error) {
	if _, err := CompareVersions(a, b); err != nil {
		return false, err
	}
	x, y := version.MustParseSemantic(a), version.MustParseSemantic(b)
	return x.Major() == y.Major() && x.Minor() == y.Minor(), nil
}
