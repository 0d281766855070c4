// Package approve decides about the certificates that nodes ask for through
// the CertificateSigningRequest API. Upstream signs what is approved; what may
// be approved is decided here.
//
// Three rules hold it together:
//
//   - Whoever has a join token gets the certificate of a node whose name is
//     free, and of no other. A name belongs to the identity key (package nodeid)
//     that took it first. The key's fingerprint is recorded (package noderecord)
//     before the request is approved, by a write that fails when somebody else
//     wrote at the same time.
//   - A node gets certificates for itself: the next one of its kubelet, one to
//     serve with on its own addresses, and those of its node agents.
//   - No serving certificate names what belongs to another node, to the API
//     server, to Services or to pods. The authority that signs it is the one by
//     which everybody knows the API server.
//
// Requests for other signers, and those of people and other programs, are left
// to the administrator.
//
// Inspect and Request.Judge decide and do no I/O; Controller carries out.
package approve
