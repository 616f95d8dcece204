-- What a hold has as evidence is not deleted: each way from a binding to such holds is short.

CREATE INDEX holds_by_elsewhere ON holds (elsewhere) WHERE elsewhere IS NOT NULL;
CREATE INDEX holds_by_occupant ON holds (occupant) WHERE occupant IS NOT NULL;
