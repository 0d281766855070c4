package upgrades

import (
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The conditions of a plan.
const (
	// AcceptedCondition is false when the plan is not carried out; the reason says why.
	AcceptedCondition = "Accepted"
	// CompleteCondition is true when every agent that is selected runs the version.
	CompleteCondition = "Complete"
	// FailedCondition is true when a node has failed; no other is begun with until
	// the plan's specification changes.
	FailedCondition = "Failed"
)

// status is what the plan's status shall be.
func (e *evaluation) status(nodes []*node) Status {
	records := e.advance(nodes)
	s := Status{
		ObservedGeneration: e.plan.Generation, Version: e.target, Nodes: records,
		Conditions: slices.Clone(e.plan.Status.Conditions),
	}
	var failed, underWay, pending []Record
	upgraded, agents := 0, 0
	for _, r := range records {
		switch {
		case r.Phase == Skipped:
			continue
		case r.Phase == Upgraded:
			upgraded++
		case r.Phase == Failed:
			failed = append(failed, r)
		case r.Phase.underWay():
			underWay = append(underWay, r)
		default:
			pending = append(pending, r)
		}
		agents++
	}
	s.Upgraded = fmt.Sprintf("%d/%d", upgraded, agents)
	switch {
	case e.refused != nil:
		s.Phase, s.Message = Refused, e.refused.message
	case len(failed) > 0:
		s.Phase, s.Message = PlanFailed, sentence(failed)
	case len(underWay) > 0:
		s.Phase, s.Message = Progressing, sentence(underWay)
	case len(pending) > 0:
		s.Phase, s.Message = Waiting, sentence(pending)
	case agents == 0:
		s.Phase, s.Message = Complete, "no agent is selected"
	default:
		s.Phase, s.Message = Complete, "all run "+e.target
	}
	e.conditions(&s)
	return s
}

// sentence is about the first of some nodes.
func sentence(records []Record) string {
	text := "node " + records[0].Name
	if records[0].Reason != "" {
		text += ": " + records[0].Reason
	}
	if more := len(records) - 1; more > 0 {
		text += fmt.Sprintf(" (and %d more)", more)
	}
	return text
}

func (e *evaluation) conditions(s *Status) {
	set := func(kind string, is bool, yes, no, message string) {
		c := metav1.Condition{Type: kind, Status: metav1.ConditionFalse, Reason: no, Message: message, ObservedGeneration: e.plan.Generation, LastTransitionTime: metav1.NewTime(e.now)}
		if is {
			c.Status, c.Reason = metav1.ConditionTrue, yes
		}
		meta.SetStatusCondition(&s.Conditions, c)
	}
	accepted, why := "", "Accepted"
	if e.refused != nil {
		accepted, why = e.refused.message, e.refused.reason
	}
	set(AcceptedCondition, e.refused == nil, why, why, accepted)
	set(CompleteCondition, s.Phase == Complete, "Complete", string(s.Phase), s.Message)
	failure := ""
	if s.Phase == PlanFailed {
		failure = s.Message
	}
	set(FailedCondition, s.Phase == PlanFailed, "NodeFailed", "NoFailure", failure)
}

// sameStatus compares what people and the controller read.
func sameStatus(a, b Status) bool { return equality.Semantic.DeepEqual(a, b) }
