package deploy

import (
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// maxErrors is how many errors of one file are told one by one.
const maxErrors = 3

// outcome is what became of a step.
type outcome struct {
	applied, pruned int
	errs            []error
}

// err sums up the step's errors; nil when there is none.
func (o outcome) err() error {
	switch n := len(o.errs); {
	case n == 0:
		return nil
	case n > maxErrors:
		return fmt.Errorf("%w; and %d more errors", joined(o.errs[:maxErrors]), n-maxErrors)
	}
	return joined(o.errs)
}

// joined is errors.Join in one line.
func joined(errs []error) error {
	texts := make([]string, len(errs))
	for i, err := range errs {
		texts[i] = err.Error()
	}
	return &oneLine{text: strings.Join(texts, "; "), errs: errs}
}

type oneLine struct {
	text string
	errs []error
}

func (e *oneLine) Error() string   { return e.text }
func (e *oneLine) Unwrap() []error { return e.errs }

// rejected reports whether the apiserver looked at everything that failed and
// refused it: another try can help, but nobody should wait for it.
func (o outcome) rejected() bool {
	for _, err := range o.errs {
		if !apierrors.IsInvalid(err) && !apierrors.IsBadRequest(err) && !apierrors.IsForbidden(err) {
			return false
		}
	}
	return len(o.errs) > 0
}
