package deploy

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"path"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// origin says where a file is. Embedded files are the same on every server of a
// cluster; a directory belongs to one server.
type origin string

const originEmbedded origin = "embedded"

// directoryOf is the origin of the files in the manifests directory of a server.
func directoryOf(owner string) origin {
	if owner == "" {
		return "directory"
	}
	return origin("directory@" + owner)
}

// fileID names a file; path is relative, with slashes.
type fileID struct {
	origin origin
	path   string
}

// String is the value of the annotation limpet.io/manifest on the file's objects.
func (id fileID) String() string { return string(id.origin) + ":" + id.path }

// component is the name by which --disable knows the file.
func (id fileID) component() string {
	base := path.Base(id.path)
	return strings.TrimSuffix(base, path.Ext(base))
}

func compareIDs(a, b fileID) int {
	if a.origin != b.origin {
		if a.origin == originEmbedded { // ours first, whatever the names
			return -1
		}
		if b.origin == originEmbedded {
			return 1
		}
		return strings.Compare(string(a.origin), string(b.origin))
	}
	return strings.Compare(a.path, b.path)
}

// file is one manifest as found by a scan.
type file struct {
	id       fileID
	intent   intent
	checksum string // of the content, hex
	// revision differs after every change of the content, and after a touch.
	revision string
	objects  []*unstructured.Unstructured
	// problem says why the file cannot be used; its objects stay as they are.
	problem error
}

// intent is what shall become of a file's objects.
type intent int

const (
	intentApply  intent = iota
	intentSkip          // FILE.skip: leave them alone
	intentRemove        // --disable
	intentWait          // someone is writing the file: leave them alone for now
)

// held reports whether the file's objects must stay as they are.
func (f *file) held() bool {
	return f.problem != nil || f.intent == intentSkip || f.intent == intentWait
}

// newFile parses the content of a file.
func newFile(id fileID, data []byte, touched string) file {
	sum := sha256.Sum256(data)
	f := file{id: id, checksum: hex.EncodeToString(sum[:])}
	f.revision = f.checksum + " " + touched
	f.objects, f.problem = parseObjects(data)
	if f.problem == nil && len(f.objects) == 0 {
		f.problem = errors.New("it holds no object; to remove what it deployed, remove the file")
	}
	return f
}

// brokenFile is a file that could not be read.
func brokenFile(id fileID, problem error) file {
	return file{id: id, problem: problem, revision: "unreadable: " + problem.Error()}
}

// isManifest tells manifests from hidden files, editors' backups and the rest.
func isManifest(name string) bool {
	if strings.HasPrefix(name, ".") || strings.HasPrefix(name, "#") || strings.HasSuffix(name, "~") {
		return false
	}
	return slices.Contains([]string{".yaml", ".yml", ".json"}, strings.ToLower(path.Ext(name)))
}
