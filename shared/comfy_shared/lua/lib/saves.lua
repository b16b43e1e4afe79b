-- NEEDS: workflow workflow_saves
-- What an agent last took from its instance's editor: "digest born base" by agent and workflow. `base` is the version that what is saved there goes on
-- from: the last one of this agent that was no conflict. The editor's versions of a workflow name their agent in its hash: editor:N.
local function last_save(agent, name, at)
  local line = redis.call('HGET', workflow_saves, agent .. ' ' .. name) or ''
  local digest, born, base = line:match('^(%x+) (%d+) (%d+)$')
  local same = at and tonumber(born) == at.born  -- not a deleted workflow of this name
  return {digest = digest, base = same and tonumber(base) or 0}
end

local function keep_save(agent, name, digest, born, base)
  redis.call('HSET', workflow_saves, agent .. ' ' .. name, string.format('%s %.0f %.0f', digest, born, base))
end

-- Whether the active version came from elsewhere since the one that this agent goes on from; one that never had any conflicts with other editors only.
local function conflicts(save, agent, active)
  local editor = redis.pcall('HGET', workflow, 'editor:' .. active)
  local others = type(editor) == 'string' and editor ~= agent
  if save.base == 0 then return others end
  return active > save.base and editor ~= agent
end
