"""The whole product, two replicas of every service, through its public interface."""
