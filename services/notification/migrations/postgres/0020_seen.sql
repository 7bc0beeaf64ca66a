-- The trace in which a message was prepared, for the trace in which it is handed over.
alter table notification add column trace_parent text not null default '';
