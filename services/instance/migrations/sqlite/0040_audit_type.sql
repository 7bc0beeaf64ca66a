-- Entries of one kind are found among those of their instance, which are few; every entry paid for this index.
drop index history_by_audit_type;
