-- migrate: bring a workflow that was published before there were versions into the present layout.
-- KEYS: clock workflows workflow
-- ARGV: name
-- USES: offset time standing
-- Replies: known | unknown
return standing(name) and 'known' or 'unknown'
