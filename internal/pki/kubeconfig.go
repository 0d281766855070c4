package pki

import (
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/limpetio/limpet/internal/atomicfile"
)

// KubeconfigSpec describes a kubeconfig with one cluster, one user and one
// context.
type KubeconfigSpec struct {
	// Server is the URL of the apiserver, as https://127.0.0.1:6443.
	Server string
	// CAFile is what the server's certificate is verified with.
	CAFile string
	// Client is the certificate to show.
	Client KeyPair
	// Embed copies the content of the files into the kubeconfig, which can
	// then be carried elsewhere. Otherwise it names their paths, and a
	// certificate that is issued again is picked up from there.
	Embed bool
	// Name is used for cluster, user and context; default "default", as people
	// know it from k3s.
	Name string
}

// Kubeconfig renders a kubeconfig.
func Kubeconfig(spec KubeconfigSpec) ([]byte, error) {
	name := spec.Name
	if name == "" {
		name = "default"
	}
	cluster := &clientcmdapi.Cluster{Server: spec.Server, CertificateAuthority: spec.CAFile}
	auth := &clientcmdapi.AuthInfo{ClientCertificate: spec.Client.Cert, ClientKey: spec.Client.Key}
	if spec.Embed {
		if err := embed(cluster, auth); err != nil {
			return nil, err
		}
	}
	data, err := clientcmd.Write(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{name: cluster},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{name: auth},
		Contexts:       map[string]*clientcmdapi.Context{name: {Cluster: name, AuthInfo: name}},
		CurrentContext: name,
	})
	if err != nil {
		return nil, fmt.Errorf("render kubeconfig: %w", err)
	}
	return data, nil
}

// embed replaces the paths by the content, and splits the leaf's file into its
// certificates and its key: nobody expects a key in client-certificate-data.
func embed(cluster *clientcmdapi.Cluster, auth *clientcmdapi.AuthInfo) error {
	ca, err := os.ReadFile(cluster.CertificateAuthority)
	if err != nil {
		return fmt.Errorf("render kubeconfig: %w", err)
	}
	certPEM, err := os.ReadFile(auth.ClientCertificate)
	if err != nil {
		return fmt.Errorf("render kubeconfig: %w", err)
	}
	keyPEM, err := os.ReadFile(auth.ClientKey)
	if err != nil {
		return fmt.Errorf("render kubeconfig: %w", err)
	}
	certs, err := decodeCerts(certPEM)
	if err != nil {
		return fmt.Errorf("render kubeconfig from %s: %w", auth.ClientCertificate, err)
	}
	key, err := decodeKey(keyPEM)
	if err != nil {
		return fmt.Errorf("render kubeconfig from %s: %w", auth.ClientKey, err)
	}
	if keyPEM, err = encodeKey(key); err != nil {
		return fmt.Errorf("render kubeconfig: %w", err)
	}
	cluster.CertificateAuthority, cluster.CertificateAuthorityData = "", ca
	auth.ClientCertificate, auth.ClientCertificateData = "", encodeCerts(certs...)
	auth.ClientKey, auth.ClientKeyData = "", keyPEM
	return nil
}

// WriteKubeconfig stores a kubeconfig unless the file already has this content
// and mode, and reports whether it wrote. The directory is created (0755) when
// it is missing. group is the name or number of the group that shall own the
// file; empty leaves it as it is.
func WriteKubeconfig(path string, data []byte, mode fs.FileMode, group string) (changed bool, err error) {
	gid := -1
	if group != "" {
		if gid, err = groupID(group); err != nil { // before anything is changed
			return false, fmt.Errorf("write kubeconfig %s: %w", path, err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return false, fmt.Errorf("write kubeconfig: %w", err)
	}
	changed, err = atomicfile.WriteIfChanged(path, data, mode)
	if err != nil {
		return false, fmt.Errorf("write kubeconfig: %w", err)
	}
	if gid >= 0 {
		if err := os.Chown(path, -1, gid); err != nil {
			return changed, fmt.Errorf("give kubeconfig to group %s: %w", group, err)
		}
	}
	return changed, nil
}

func groupID(group string) (int, error) {
	if gid, err := strconv.Atoi(group); err == nil && gid >= 0 {
		return gid, nil
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return 0, fmt.Errorf("group %q is not known on this machine: %w", group, err)
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		return 0, fmt.Errorf("group %q has no numeric id: %w", group, err)
	}
	return gid, nil
}
