"""Three RabbitMQ nodes: their deaths under load, and what was lost."""
