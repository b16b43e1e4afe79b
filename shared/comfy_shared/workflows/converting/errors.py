"""The one error of conversion."""


class ConversionError(Exception):
    """An editor's graph that cannot become a prompt: why, and at which node."""

    def __init__(self, message: str, *, node_id: str = "", class_type: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.node_id = node_id  # "12", in a subgraph "5:12"; empty: the graph as a whole
        self.class_type = class_type  # of that node; empty when it is not even known

    def __str__(self) -> str:
        if not self.node_id:
            return self.message
        node = f"node {self.node_id} ({self.class_type})" if self.class_type else f"node {self.node_id}"
        return f"{node}: {self.message}"
